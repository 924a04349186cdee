"""Our networks compute what the published ones do, with weights of the published names from a file (`tests/references/published.py`)."""

import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest

import ctxseg
from ctxseg import data
from ctxseg.commands import command_line
from ctxseg.configs import defaults
from ctxseg.errors import UserError
from ctxseg.models import create_model
from ctxseg.models.weights import mcibi, mmsegmentation, timm, torchvision
from ctxseg.models.weights.names import BANK, SEEN, recognise
from ctxseg.models.weights.source import PUBLISHERS, open_source
from ctxseg.models.weights.tensor import Scratch
from tests.references import published

with np.load(published.RECORDED) as _file:
    RECORDED = dict(_file)
CASES = [name.removesuffix("/names") for name in RECORDED if name.endswith("/names")]


@pytest.mark.usefixtures("plain_convolutions")
@pytest.mark.parametrize("case", CASES)
def test_networks_equal_the_published_ones(case):
    """At an even and an odd size, float32 against float64."""
    model, variables, report = published.load(case, RECORDED[f"{case}/names"], RECORDED[f"{case}/shapes"])
    if "_resnet" in case:  # a whole network
        assert not report.new and not report.left
    else:
        new = ("classifier/scores", *(["backbone/conv6", "backbone/conv7"] if "vgg" in case else []))
        assert all(name.partition("/")[2].startswith(new) for name in report.new)
    for size in published.sizes(case):
        recorded = {key.rpartition("/")[2]: x for key, x in RECORDED.items() if key.startswith(f"{case}/{size[0]}x")}
        apply = jax.jit(lambda v, x, names=tuple(recorded): {n: published.maps(model.apply(v, x))[n] for n in names})
        maps = apply(variables, published.image(size))
        errors = {name: published.difference(maps[name], x) for name, x in recorded.items()}
        assert max(errors.values()) < 1e-5, (size, errors)


def names_of(case):
    return RECORDED[f"{case}/names"].tolist()


@pytest.mark.parametrize("case", CASES)
def test_names_there_and_back(case):
    publisher = recognise(PUBLISHERS, names_of(case))
    ours = {name: publisher.ours(name) for name in names_of(case)}
    taken = {name: path for name, path in ours.items() if path not in ("-", BANK)}
    assert len(set(taken.values())) == len(taken) > 20
    assert {path: publisher.theirs(path) for path in taken.values()} == {path: name for name, path in taken.items()}


def test_the_names_of_mmsegmentation():
    """Its ResNet-V1c has timm's layers; only the stem has another name."""
    stem = {"bn1": "stem.7"} | {f"conv1.{i}": f"stem.{i}" for i in (0, 1, 3, 4, 6)}
    names = {}
    for name in names_of("resnet50c-16"):
        layer, _, array = name.rpartition(".")
        names[f"{stem.get(layer, layer)}.{array}"] = timm.RESNET_V1C.ours(name)
    assert recognise(PUBLISHERS, list(names)) is mmsegmentation.RESNET_V1C
    assert {name: mmsegmentation.RESNET_V1C.ours(name) for name in names} == names
    segmenter = {f"backbone.{name}": path for name, path in names.items() if not name.startswith("fc.")}
    segmenter |= dict.fromkeys(
        ("decode_head.convs.0.bn.weight", "neck.convs.0.bias", "auxiliary_head.conv_seg.bias"), "-"
    )
    assert recognise(PUBLISHERS, list(segmenter)) is mmsegmentation.SEGMENTER
    assert {name: mmsegmentation.SEGMENTER.ours(name) for name in segmenter} == segmenter


def test_the_names_of_an_fcn():
    heads = {
        "classifier.0.weight": "params/context/conv1/conv/kernel",
        "classifier.4.bias": "params/classifier/scores/bias",
    }
    names = [name for name in names_of("deeplabv3_resnet50-8") if not name.startswith("classifier.")]
    assert recognise(PUBLISHERS, [*names, *heads]) is torchvision.FCN
    assert {name: torchvision.FCN.ours(name) for name in heads} == heads


def read(file, shapes):
    published.write(file, shapes)
    return {name: tensor.read(Scratch()) for name, tensor in open_source(str(file)).tensors.items()}


def test_entries_of_a_memory(tmp_path):
    name, file = mcibi.MCIBI.bank, tmp_path / "a.safetensors"
    arrays = read(file, {name: (3, 1, 4)})
    np.testing.assert_array_equal(arrays[BANK], published.values(name, (3, 1, 4))[:, 0])
    assert arrays[SEEN].tolist() == [True, True, False]  # the last one is all zeros
    for shape in ((3, 2, 4), (3, 4)):
        with pytest.raises(UserError, match=r"the memory has shape .*expected one entry for each class"):
            read(file, {name: shape})


def test_a_bias_before_a_normalisation_goes_into_its_mean(tmp_path):
    names = {"features.0.weight": (2, 3, 3, 3), "features.0.bias": (2,), "features.1.running_mean": (2,)}
    arrays = read(tmp_path / "a.safetensors", names)
    assert set(arrays) == {"params/backbone/conv1_1/conv/kernel", "batch_stats/backbone/conv1_1/norm/mean"}
    bias, mean = (published.values(name, (2,)) for name in list(names)[1:])
    np.testing.assert_array_equal(arrays["batch_stats/backbone/conv1_1/norm/mean"], mean - bias)


# Networks of commands and of files, as shapes: the files are holes.


def network_of(config, classes):
    """A model, and the tree of the shapes of its variables."""
    model = create_model(config, classes)
    return model, jax.eval_shape(lambda key: model.init(key, published.image((32, 32))), jax.random.PRNGKey(0))


def recorded(case):
    """{name: shape} of the published network."""
    rows = (tuple(int(n) for n in row if n) for row in RECORDED[f"{case}/shapes"])
    return dict(zip(names_of(case), rows, strict=True))


def write(file, system, classes):
    """Writes a file of zeros with the names and shapes of a published network on ResNet-50."""
    shapes = recorded("mcibi_resnet50-8" if system == "mcibi" else "deeplabv3_resnet50-8")
    if system == "fcn":
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("classifier.")}
        norm = {f"classifier.1.{kind}": (512,) for kind in ("weight", "bias", "running_mean", "running_var")}
        shapes |= norm | {"classifier.0.weight": (512, 2048, 3, 3)}
        shapes |= {"classifier.4.weight": (published.CLASSES, 512, 1, 1), "classifier.4.bias": (published.CLASSES,)}
    shapes = {name: tuple(classes if n == published.CLASSES else n for n in shape) for name, shape in shapes.items()}
    published.write(file, shapes, unread=("",))


def parse(command):
    """The config of a command line, and its number of classes."""
    config = command_line.parse(["main.py", *shlex.split(command)]).config
    return config, len(data.metadata(config.data)["class_names"])


COMMANDS = re.findall(
    r"^    python main.py (.*pretrained=(deeplabv3|fcn|mcibi)_resnet(50|101).pth.*)",
    (Path(__file__).parents[2] / "docs/weights.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize("system", ["deeplabv3", "fcn", "mcibi"])
def test_the_commands_of_the_page_load_whole_networks(system, tmp_path):
    """On ResNet-50; those on ResNet-101 are the same but for its name."""
    commands = {depth: command for command, name, depth in COMMANDS if name == system}
    assert commands["101"] == commands["50"].replace("resnet50", "resnet101")
    config, classes = parse(commands["50"])
    write(tmp_path / "file", system, classes)
    _, report = ctxseg.load_weights(*network_of(config.model, classes), tmp_path / "file")
    assert not report.new and not report.left and report.pixels["order"] == "rgb"


@pytest.mark.parametrize(
    "system, command, parts",
    [
        ("deeplabv3", "--config=pspnet:voc2012 --config.model.backbone.stem=conv7", {"backbone"}),
        ("fcn", "--config=deeplabv3:voc2012 --config.model.backbone.stem=conv7", {"backbone", "classifier"}),
        ("mcibi", "--config=mcibi:voc2012", {"backbone", "memory", "classifier", "auxiliary"}),
    ],
)
def test_a_whole_network_serves_another_system(system, command, parts, tmp_path):
    config, classes = parse(command)
    write(tmp_path / "file", system, classes)
    _, report = ctxseg.load_weights(*network_of(config.model, classes), tmp_path / "file")
    assert {name.split("/")[1] for name in report.taken} == parts
    assert not {name for name in report.new if "/backbone/" in name}


@pytest.mark.parametrize(
    "case, lacking, fields, line",
    [
        (
            "resnet18-8",
            "layer1.0.conv1.weight",
            {"name": "resnet18"},
            r"lacks backbone/res2_1/conv1/conv/kernel \(layer1.0.conv1.weight\): it is incomplete, get or save it again$",
        ),
        ("resnet18-8", "layer1.0.bn1", {"name": "resnet18"}, r"lacks .*\(layer1.0.bn1.\w+\) and 3 more arrays: "),
        ("resnet18-8", None, {"name": "resnet34"}, "another backbone: .*set config.model.backbone, or .*=none$"),
        ("resnet50-8", None, {"name": "resnet50", "stem": "conv3_32"}, "set config.model.backbone.stem=conv7, or"),
        ("resnet50c-16", None, {"name": "resnet50", "stem": "conv7"}, "set config.model.backbone.stem=conv3_32, or"),
        (
            "resnet50c-16",
            None,
            {"name": "resnet50", "stem": "conv3"},
            r": backbone/\S+ \(\S+ \[.*\]\) has shape .*: set config.model.backbone.stem=conv3_32, or",
        ),
        ("vgg16-hrenet-8", None, {"name": "vgg16", "norm": "batch"}, "set config.model.backbone.norm=none, or"),
        ("vgg16_bn-largefov-8", None, {"name": "vgg16", "norm": "none"}, "set config.model.backbone.norm=batch, or"),
    ],
)
def test_what_differs_in_a_backbone_is_named(case, lacking, fields, line, tmp_path):
    shapes = {name: shape for name, shape in recorded(case).items() if not lacking or not name.startswith(lacking)}
    published.write(tmp_path / "file", shapes, unread=("",))
    config = defaults.get_config().model
    config.backbone.update(fields)
    with pytest.raises(UserError, match=line) as error:
        ctxseg.load_weights(*network_of(config, 3), tmp_path / "file")
    assert str(error.value).startswith(f"{tmp_path}/file") and "\n" not in str(error.value)


def test_another_shape_is_shown_as_in_the_file(tmp_path):
    write(tmp_path / "file", "deeplabv3", 21)
    config, classes = parse("--config=deeplabv3:voc2012 --config.model.backbone.stem=conv7")
    line = (
        r"context/\w+/conv/kernel \(classifier.0.convs.\d.[01].weight \[256, 2048, \d, \d\]\) has shape \[\d, \d, 2048, 256\] in it and "
        r"\[\d, \d, 2048, 512\] in this network: set config.model.context as in the file's network"
    )
    with pytest.raises(UserError, match=line):
        ctxseg.load_weights(*network_of(config.model, classes), tmp_path / "file")
