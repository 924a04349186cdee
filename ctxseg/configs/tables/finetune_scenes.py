"""Fine-tuning in small: a run on half of the classes of `scenes`, continued on all of them, against training from scratch.

    python main.py --mode=sweep --config=configs/tables/finetune_scenes.py --seeds=3 --config.train.eval_every=100

The classifier's weights and the memory's entries of the classes that both data sets have are taken by name. No paper has this table.
"""

from ctxseg.studies.tables import Row, Table


def get_table(dataset: str = "scenes") -> Table:
    half = Row("half of the classes", "mcibi", dataset="scenes_half")
    return Table(
        "finetune_scenes",
        "Fine-tuning on more classes",
        dataset,
        [Row("from scratch", "mcibi"), Row("from half of the classes", "mcibi", start=half)],
    )
