"""Our networks compute what the published ones do, with weights of the published names from a file (`tests/references/published.py`)."""

import jax
import numpy as np
import pytest

from ctxseg.errors import UserError
from ctxseg.models.weights import hrnet, mcibi, mmsegmentation, resnest, timm, torchvision
from ctxseg.models.weights.names import BANK, SEEN, recognise
from ctxseg.models.weights.source import PUBLISHERS, open_source
from ctxseg.models.weights.tensor import Scratch
from tests.references import published

RECORDED = {}
for _path in published.RECORDED.values():
    with np.load(_path) as _file:
        RECORDED |= dict(_file)
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


@pytest.mark.parametrize(
    "case, original, alone, segmenter, run",
    [
        ("resnet50c-16", timm.RESNET_V1C, mmsegmentation.RESNET_V1C, mmsegmentation.SEGMENTER, mcibi.MCIBI),
        ("resnest50d-16", resnest.RESNEST, resnest.MMSEGMENTATION, resnest.SEGMENTER, mcibi.RESNEST),
        ("hrnet_small-32", hrnet.IMAGENET, hrnet.IMAGENET, hrnet.SEGMENTER, mcibi.HRNET),
    ],
)
def test_the_names_of_mmsegmentation(case, original, alone, segmenter, run):
    """Its networks have timm's layers; only the stem of a ResNet has another name. MCIBI's runs have another prefix."""
    stem = {"bn1": "stem.7"} | {f"conv1.{i}": f"stem.{i}" for i in (0, 1, 3, 4, 6)} if "res" in case else {}
    names = {}
    for name in names_of(case):
        layer, _, array = name.rpartition(".")
        names[f"{stem.get(layer, layer)}.{array}"] = original.ours(name)
    body = {name: path for name, path in names.items() if path != "-" or name.endswith("num_batches_tracked")}
    body = {name: path for name, path in body.items() if not name.startswith(published.unread(case))}
    heads = dict.fromkeys(("decode_head.convs.0.bn.weight", "neck.convs.0.bias", "auxiliary_head.conv_seg.bias"), "-")
    whole = {f"backbone.{name}": path for name, path in body.items()} | heads
    context = {"context_within_image_module.bottleneck.0.weight": "params/context/fuse/conv/kernel"}
    of_run = {f"backbone_net.{name}": path for name, path in body.items()} | context
    for publisher, expected in ((alone, names), (segmenter, whole), (run, of_run)):
        assert recognise(PUBLISHERS, list(expected)) is publisher
        assert {name: publisher.ours(name) for name in expected} == expected


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
