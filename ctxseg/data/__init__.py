"""The data sets, by the name that `config.data.name` has."""

from ctxseg.data import pipeline, superpixels
from ctxseg.data.builders import common
from ctxseg.data.builders.camvid import CamVid
from ctxseg.data.builders.scenes import Scenes
from ctxseg.errors import UserError

DATASETS = {"scenes": Scenes, "camvid": CamVid}


def load(name: str, data_dir, manual_dir=None):
    """The prepared data set `name`, built first if need be.

    Args:
        name: a key of `DATASETS`.
        data_dir: where prepared data sets are kept; `~` is expanded.
        manual_dir: the data set as its makers ship it. May be None for one that is generated, or that has one build.

    Returns:
        A `tfds.core.GeneratorBasedBuilder` to read from: see `common` for its features and metadata.

    Raises:
        UserError: unknown name, a `manual_dir` that is missing or faulty, or a `data_dir` that cannot be written.
    """
    if name not in DATASETS:
        raise UserError(f"config.data.name is {name!r}: there is {', '.join(DATASETS)}")
    return common.prepare(DATASETS[name], data_dir, manual_dir)


def metadata(name: str) -> dict:
    """`class_names`, `palette` and `groups` of the data set `name`, without its data. UserError for an unknown name."""
    if name not in DATASETS:
        raise UserError(f"config.data.name is {name!r}: there is {', '.join(DATASETS)}")
    return dict(common.unprepared(DATASETS[name]).info.metadata)


def prepare(config) -> str:
    """`--mode=prepare`: builds the data set, and the super-pixels, of `config.data`. Returns its folder; raises as `load`."""
    superpixels.check(config.superpixels)
    builder = load(config.name, config.data_dir, config.manual_dir)
    for split in builder.info.splits:
        pipeline.source(builder, split, config.superpixels)
    return str(builder.data_dir)
