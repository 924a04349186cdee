"""Attention to Scale (Chen et al., CVPR 2016), Table 4: its own rows on VOC 2012's test images, and the two of DeepLab that it extends."""

from ctxseg.studies.tables import Row, Table

PAPER = {
    "DeepLab-LargeFOV": 65.1,
    "DeepLab-MSc-LargeFOV": 67.0,
    "average": 70.5,
    "max": 70.6,
    "attention": 71.5,
    "attention, DenseCRF, from COCO": 75.1,
    "the same, with random scaling (Attention+)": 75.7,
}


def get_table(dataset: str = "voc2012") -> Table:
    attention = f"--config=configs/attention.py:{dataset} --config.eval.crf.iterations=10"
    return Table(
        "attention_voc_test",
        "Attention to Scale, Table 4",
        dataset,
        [Row(name, None, {}, (figure,)) for name, figure in PAPER.items()],
        note="The labels of VOC's test images are kept on a server, and the last two rows start from weights trained on COCO: only the "
        "paper's figures are shown. The closest runs, all on val, are the rows with extra supervision of "
        f"--config=configs/tables/attention_voc_imagenet.py:{dataset} and, for the last two rows without COCO, {attention} and "
        f"{attention} --config.data.scale_range=0.6,1.4 (the paper gives neither the scales of these rows nor the CRF's iterations; the "
        "scales are its best three, and 10 iterations are a common choice).",
    )
