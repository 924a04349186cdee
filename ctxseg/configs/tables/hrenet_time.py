"""H-ReNet (Yan et al., 2016), Table 6: seconds per image, and mIoU."""

from ctxseg.configs.tables.hrenet_variants import baseline, renet
from ctxseg.studies.tables import Column, Row, Table


def get_table(dataset: str = "voc2012") -> Table:
    one_image = {"eval.batch_size": 1}
    hrenet = one_image | renet(dataset, "pool4", "pool5", "conv7")
    return Table(
        "hrenet_time",
        "H-ReNet, Table 6",
        dataset,
        [
            Row("baseline FCN", "hrenet", one_image | baseline(dataset), (0.21, 63.4)),
            Row("H-ReNet", "hrenet", hrenet, (0.24, 71.1)),
            Row("H-ReNet, DenseCRF", "hrenet", hrenet | {"eval.crf.iterations": 2}, (0.46, 72.6)),
        ],
        [Column("seconds per image", "seconds per image"), Column()],
        note="The paper's seconds are for an image of 375×500 on a K40c.",
    )
