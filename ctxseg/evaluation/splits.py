"""The data that a run is evaluated on, and the other data sets that it is trained on."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from ctxseg import data
from ctxseg.data import images, mixture, pipeline
from ctxseg.errors import UserError
from ctxseg.inference.predict import Input
from ctxseg.runs import provenance


def check_objects(config, objects: bool) -> None:
    """UserError if a data set of the config has no objects although a detector needs them, or the other way round. Needs no data."""
    mixed = [("data.mixture", part.name) for part in mixture.parse(config)]
    for field, name in (("data.name", config.data.name), *mixed, ("eval.data", config.eval.data)):
        if not name or data.has_objects(name, field) == objects:
            continue
        if objects:
            raise UserError(
                f"config.{field} is {name}, which has labels of pixels; a detector needs objects: scenes_instances, coco_instances, or "
                "folder_instances for your own"
            )
        raise UserError(
            f"config.{field} is {name}, which has objects; a segmenter needs labels of pixels. A detector finds objects, such as "
            "--config=configs/mask_rcnn.py"
        )


def load_mixture(config, builder) -> list[tuple[mixture.Part, Any]]:
    """(entry, prepared builder) of each entry of `config.data.mixture`.

    Args:
        config: config of a run.
        builder: the prepared builder of `config.data`.

    Raises:
        UserError: as `mixture.parse` and `data.load_prepared`; there is no such split, or the data set has no class of `builder`.
    """
    loaded = []
    for part in mixture.parse(config):
        same = part.name == config.data.name
        other = builder if same else data.load_prepared(part.name, config.data.data_dir, "data.mixture")
        check_split(other, part.split, f"config.data.mixture: the split of {part.name}")
        mixture.check_classes(part, classes_of(other), config.data.name, classes_of(builder))
        loaded.append((part, other))
    return loaded


def remarks(config, builder, others) -> list[str]:
    """Lines about the classes that differ between `builder` and the `others`, the result of `load_mixture`; see `mixture.remarks`."""
    names = classes_of(builder)
    lines = [
        line for part, other in others for line in mixture.remarks(part, classes_of(other), config.data.name, names)
    ]
    return list(dict.fromkeys(lines))  # a data set may have several entries


def classes_of(builder) -> list[str]:
    """The names of the classes of a data set, by id."""
    return list(builder.info.metadata["class_names"])


def load_tested(config, class_names: Sequence[str] | None = None):
    """The prepared builder of the data set of `config.eval`.

    Args:
        config: config of a run.
        class_names: the classes that the run was trained on; default: the classes of `config.data`.

    Raises:
        UserError: as `data.load`, or the classes differ from the run's.
    """
    name = config.eval.data or config.data.name
    manual_dir = config.data.manual_dir if name == config.data.name else None
    builder = data.load(name, config.data.data_dir, manual_dir, field="eval.data" if config.eval.data else "data.name")
    provenance.check_everywhere(builder)
    if config.eval.data:
        trained = data.metadata(config.data)["class_names"] if class_names is None else class_names
        if list(trained) != list(builder.info.metadata["class_names"]):
            raise UserError(f"config.eval.data is {name}; expected a data set with the classes of {config.data.name}")
    return builder


def load_tested_of_run(config, folder: str):
    """`load_tested` for the run in `folder`. UserError: the data differ from the run's, and `config.eval.data` does not name them."""
    builder = load_tested(config, provenance.metadata(config, folder)["class_names"] if config.eval.data else None)
    if not config.eval.data:
        remedy = f"--config.eval.data={builder.name} evaluates on it, if the classes are the same"
        provenance.check(folder, describe(config, builder), remedy)
    return builder


def describe(config, builder) -> dict:
    """`provenance.describe` of the data set of `config.eval`."""
    return provenance.describe(builder, config.data.manual_dir if builder.name == config.data.name else None)


def check_split(builder, split: str, field: str = "config.eval.split") -> None:
    """UserError that names `field` if `builder` has no such split, or one of several, as `a+b`."""
    if not set(split.split("+")) <= set(builder.info.splits):
        raise UserError(f"{field} is {split!r}; expected a split of {builder.name}: {', '.join(builder.info.splits)}")


def inputs(config, folder: str) -> list[Input]:
    """The images of `config.eval.split` of the run in `folder`, for `--mode=predict`.

    UserError: see `load_tested_of_run`; there is no such split.
    """
    builder = load_tested_of_run(config, folder)
    check_split(builder, config.eval.split)
    source = pipeline.source(builder, config.eval.split, 0)

    def read(index):
        return images.as_rgb(Image.fromarray(source.image(index)), config.eval.max_pixels)

    names = [source.name(i) for i in range(len(source))]
    return [Input(name, Path(f"{name}.png"), partial(read, i)) for i, name in enumerate(names)]
