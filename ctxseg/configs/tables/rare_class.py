"""Losses for a rare class: in training, 1 of 50 beacons of `scenes_rare` shows galaxies; in testing every second one does.

    python main.py --mode=sweep --config=configs/tables/rare_class.py --seeds=3

No paper has this table.
"""

from typing import Any

from ctxseg.studies.tables import Column, Row, Table

# Row → fields of the loss. `ohem_least` is an eighth of the pixels of a batch.
LOSSES: dict[str, dict[str, Any]] = {
    "cross entropy": {},
    "class weights": {"class_weights": ("frequency",)},
    "focal": {"name": "focal"},
    "Dice": {"name": "dice"},
    "cross entropy + Dice": {"name": "cross_entropy+dice"},
    "OHEM": {"name": "ohem", "ohem_least": 8 * 128 * 128 // 8},
}


def get_table(dataset: str = "scenes_rare") -> Table:
    rows = [Row(name, "fcn", {f"loss.{field}": v for field, v in fields.items()}) for name, fields in LOSSES.items()]
    columns = [Column(), *(Column(score, score) for score in ("IoU of galaxies", "IoU of retina", "mean F1"))]
    return Table("rare_class", "Losses for a rare class", dataset, rows, columns)
