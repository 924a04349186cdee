"""The data sets, by their name in `config.data.name`."""

from ctxseg.choices import find
from ctxseg.data import store
from ctxseg.data.builders.ade20k import ADE20K
from ctxseg.data.builders.camvid import CamVid
from ctxseg.data.builders.cihp import CIHP
from ctxseg.data.builders.cityscapes import Cityscapes
from ctxseg.data.builders.coco_instances import COCOInstances
from ctxseg.data.builders.coco_stuff import COCOStuff
from ctxseg.data.builders.coco_stuff10k import COCOStuff10K
from ctxseg.data.builders.coco_subset import COCOSubset
from ctxseg.data.builders.coco_voc import COCOVOC
from ctxseg.data.builders.folder import Folder
from ctxseg.data.builders.folder_instances import FolderInstances
from ctxseg.data.builders.lip import LIP
from ctxseg.data.builders.nyudv2 import NYUDv2
from ctxseg.data.builders.pascal_context import PascalContext
from ctxseg.data.builders.pascal_person_part import PascalPersonPart
from ctxseg.data.builders.scenes import Scenes, ScenesHalf, ScenesRare
from ctxseg.data.builders.scenes_instances import ScenesInstances
from ctxseg.data.builders.stanford_background import StanfordBackground
from ctxseg.data.builders.sunrgbd import SUNRGBD
from ctxseg.data.builders.voc2012 import VOC2012
from ctxseg.errors import UserError

DATASETS = {
    "scenes": Scenes,
    "scenes_half": ScenesHalf,
    "scenes_rare": ScenesRare,
    "scenes_instances": ScenesInstances,
    "folder": Folder,
    "folder_instances": FolderInstances,
    "camvid": CamVid,
    "voc2012": VOC2012,
    "pascal_context": PascalContext,
    "pascal_person_part": PascalPersonPart,
    "nyudv2": NYUDv2,
    "sunrgbd": SUNRGBD,
    "stanford_background": StanfordBackground,
    "coco_subset": COCOSubset,
    "coco_voc": COCOVOC,
    "coco_stuff": COCOStuff,
    "coco_instances": COCOInstances,
    "coco_stuff10k": COCOStuff10K,
    "ade20k": ADE20K,
    "cityscapes": Cityscapes,
    "lip": LIP,
    "cihp": CIHP,
}


def load(name: str, data_dir, manual_dir=None, download: bool = False, field: str = "data.name"):
    """The prepared data set `name`, built first if necessary.

    Args:
        name: a key of `DATASETS`, or `package.module:Class` of a builder, see `builders.pairs` and `builders.records`.
        data_dir: the folder of prepared data sets; `~` is expanded.
        manual_dir: the data set as its authors publish it. May be None if it is generated, or if one folder of it is already prepared.
        download: if `manual_dir` is None and nothing is prepared, download the data set, if possible.
        field: the config field that holds the name, for messages.

    Returns:
        A `tfds.core.GeneratorBasedBuilder` to read from: see `builders.records` for its features and metadata.

    Raises:
        UserError: unknown name, a missing or invalid `manual_dir`, or a `data_dir` that cannot be written.
    """
    return store.prepare(find(field, name, DATASETS), data_dir, manual_dir, download)


def load_prepared(name: str, data_dir, field: str):
    """`load` for a data set without `manual_dir`: it is generated, or was prepared before.

    UserError: as `load`; or it is not prepared. The message names `field` and the command that prepares it.
    """
    builder_cls = find(field, name, DATASETS)
    if not store.has_build(builder_cls, data_dir):
        raise UserError(
            f"config.{field} has {name}, which is not prepared in {data_dir}: prepare it first, by --mode=prepare "
            f"--config.data.name={name}, and --config.data.manual_dir if it cannot be downloaded"
        )
    return store.prepare(builder_cls, data_dir)


def has_objects(name: str, field: str = "data.name") -> bool:
    """Whether the images of a data set have objects, for detectors; otherwise their pixels have labels. UserError: unknown name."""
    return "category_ids" in store.unprepared(find(field, name, DATASETS)).info.metadata


def metadata(config) -> dict:
    """`class_names`, `palette` and `groups` of the data set of `config.data`. Reads the data only if they define the classes.

    UserError: unknown name, or as `load`.
    """
    info = store.unprepared(find("data.name", config.name, DATASETS)).info
    if not info.metadata["class_names"]:
        info = load(config.name, config.data_dir, config.manual_dir).info
    return dict(info.metadata)
