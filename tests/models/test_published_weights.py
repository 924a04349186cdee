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
from ctxseg.models.weights import hrnet, mcibi, mmsegmentation, resnest, timm, torchvision, vit
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
    assert publisher is vit.VIT or not case.startswith("vit")
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


def vit_names(publisher, rename):
    """Other names of timm's ViT-Ti/16: {their name: our name}, of `publisher`."""
    names = {}
    for name in names_of("vit_tiny_patch16_224-16"):
        if not name.startswith("head."):
            names[rename(name)] = vit.VIT.ours(name)
    assert recognise(PUBLISHERS, list(names)) is publisher
    return names


def test_the_names_of_dinov2():
    """Facebook's, with registers, and with blocks in chunks as in training; `theirs` are those without chunks."""

    def chunked(name):
        return re.sub(r"blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // 4}.{m[1]}", name)

    scale = {
        "blocks.3.ls1.gamma": "params/backbone/block4/scale1",
        "blocks.3.ls2.gamma": "params/backbone/block4/scale2",
    }
    more = {"mask_token": "-", "register_tokens": "params/backbone/registers"} | scale
    for rename in (str, chunked):
        names = {rename(name): vit.VIT.ours(name) for name in names_of("vit_tiny_patch16_224-16") if "head" not in name}
        names |= {rename(name): ours for name, ours in more.items()}
        assert recognise(PUBLISHERS, list(names)) is vit.DINOV2
        assert {name: vit.DINOV2.ours(name) for name in names} == names
    assert {vit.DINOV2.theirs(ours): ours for ours in scale.values()} == scale


def test_the_names_of_mmsegmentation_and_mcibi_on_vit():
    parts = {
        "patch_embed.proj": "patch_embed.projection",
        "norm.": "ln1.",
        "blocks": "layers",
        "norm": "ln",
        "mlp.fc1": "ffn.layers.0.0",
        "mlp.fc2": "ffn.layers.1",
        "attn.qkv.": "attn.attn.in_proj_",
        "attn.proj": "attn.attn.out_proj",
    }

    def rename(name):
        for theirs, others in parts.items():
            name = re.sub(rf"(^|\.){re.escape(theirs)}", rf"\1{others}", name)
        return name

    names = vit_names(vit.MMSEGMENTATION, rename)
    assert {name: vit.MMSEGMENTATION.ours(name) for name in names} == names
    segmenter = {f"backbone.{name}": ours for name, ours in names.items()} | {"decode_head.conv_seg.bias": "-"}
    assert recognise(PUBLISHERS, list(segmenter)) is vit.SEGMENTER
    run = {f"backbone_net.{name}": ours for name, ours in names.items()}
    run |= {
        "norm_layers.3.weight": "params/backbone/norm23/scale",
        "bottleneck.0.weight": "params/memory/bottleneck/conv/kernel",
        "auxiliary_decoder.2.9.bias": "params/auxiliary/layer19/scores/bias",
    }
    assert recognise(PUBLISHERS, list(run)) is vit.MCIBI
    assert {name: vit.MCIBI.ours(name) for name in run} == run


def test_the_dilations_of_mcibi_on_vit(tmp_path):
    """Those of ADE20K, or of COCO-Stuff with its 182 outputs."""
    for classes, dilation in ((150, 6), (182, 12)):
        names = {
            vit.MCIBI.bank: (classes, 1, 4),
            "context_within_image_module.parallel_branches.1.0.weight": (2, 4, 3, 3),
        }
        names |= {"backbone_net.cls_token": (1, 1, 4)}
        assert f"params/context/dilation{dilation}/conv/kernel" in read(tmp_path / f"{classes}.safetensors", names)


def test_googles_vit(tmp_path):
    """Its `.npz` has the layout of our kernels, but separate queries, keys and values, by head."""
    rng = np.random.default_rng(0)
    block, heads = "Transformer/encoderblock_1/MultiHeadDotProductAttention_1", {}
    for part in ("query", "key", "value"):
        heads[f"{block}/{part}/kernel"], heads[f"{block}/{part}/bias"] = (
            rng.normal(size=(6, 2, 3)),
            rng.normal(size=(2, 3)),
        )
    arrays = heads | {
        "cls": rng.normal(size=(1, 1, 6)),
        "embedding/kernel": rng.normal(size=(2, 2, 3, 6)),
        "Transformer/posembed_input/pos_embedding": rng.normal(size=(1, 5, 6)),
        f"{block}/out/kernel": rng.normal(size=(2, 3, 6)),
        "Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel": rng.normal(size=(6, 24)),
        "Transformer/encoderblock_1/LayerNorm_2/scale": rng.normal(size=6),
        "Transformer/encoder_norm/bias": rng.normal(size=6),
        "head/kernel": rng.normal(size=(6, 10)),
    }
    np.savez(tmp_path / "a.npz", **arrays)
    source = open_source(str(tmp_path / "a.npz"))
    kernels, biases = (
        [heads[f"{block}/{part}/{array}"] for part in ("query", "key", "value")] for array in ("kernel", "bias")
    )
    expected = {
        "class_token": arrays["cls"][0, 0],
        "positions": arrays["Transformer/posembed_input/pos_embedding"][0],
        "patches/kernel": arrays["embedding/kernel"],
        "norm/bias": arrays["Transformer/encoder_norm/bias"],
        "block2/attention/qkv/kernel": np.concatenate([x.reshape(6, 6) for x in kernels], axis=1),
        "block2/attention/qkv/bias": np.concatenate([x.ravel() for x in biases]),
        "block2/attention/out/kernel": arrays[f"{block}/out/kernel"].reshape(6, 6),
        "block2/hidden/kernel": arrays["Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel"],
        "block2/norm2/scale": arrays["Transformer/encoderblock_1/LayerNorm_2/scale"],
    }
    assert source.publisher == "Google's ViT" and source.left == ("head/kernel",)
    actual = {name: (tensor.shape, tensor.read(Scratch())) for name, tensor in source.tensors.items()}
    assert actual.keys() == {f"params/backbone/{name}" for name in expected}
    for name, array in expected.items():
        shape, values = actual[f"params/backbone/{name}"]
        assert shape == array.shape
        np.testing.assert_array_equal(values, array)


def test_positions_without_the_class_token(tmp_path):
    names = {"reg_token": (1, 2, 4), "cls_token": (1, 1, 4), "pos_embed": (1, 9, 4)}
    arrays = read(tmp_path / "a.safetensors", names)
    assert arrays["params/backbone/registers"].shape == (2, 4) and arrays["params/backbone/class_token"].shape == (4,)
    expected = np.concatenate([np.zeros((1, 4)), published.values("pos_embed", (1, 9, 4))[0]])
    np.testing.assert_array_equal(arrays["params/backbone/positions"], expected)


def test_normalisations_of_chosen_layers_may_be_missing(tmp_path):
    """Weights of ImageNet have one normalisation, and MCIBI's networks one for each chosen layer."""
    names = names_of("vit_tiny_patch16_224-16")
    shapes = [tuple(int(n) for n in row if n) for row in RECORDED["vit_tiny_patch16_224-16/shapes"]]
    published.write(tmp_path / "a.safetensors", dict(zip(names, shapes, strict=True)), ("head.",))
    config = defaults.get_config().model
    config.backbone.name = "vit_tiny_16"
    model = ctxseg.create_model(config, 3)
    empty = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype),
        jax.eval_shape(lambda key: model.init(key, published.image((32, 32))), jax.random.PRNGKey(0)),
    )
    _, report = ctxseg.load_weights(model, empty, tmp_path / "a.safetensors")
    left = {name.removeprefix("params/") for name in report.left}
    assert {name for name in left if "head" not in name} == {"backbone/norm/scale", "backbone/norm/bias"}
    assert {name.split("/")[2] for name in report.new if "backbone" in name} == {f"norm{i}" for i in (2, 5, 8, 11)}


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


PAGE = (Path(__file__).parents[2] / "docs/weights.md").read_text(encoding="utf-8")
COMMANDS = re.findall(
    r"^    python main.py (.*pretrained=(deeplabv3|fcn|mcibi)_resnet(50|101).pth.*)", PAGE, re.MULTILINE
)
OTHERS = re.findall(r"^    python main.py (.*pretrained=mcibi_(resnest|hrnet|vit)\w+.pth.*)", PAGE, re.MULTILINE)


@pytest.mark.parametrize("system", ["deeplabv3", "fcn", "mcibi"])
def test_the_commands_of_the_page_load_whole_networks(system, tmp_path):
    """On ResNet-50; those on ResNet-101 are the same but for its name."""
    commands = {depth: command for command, name, depth in COMMANDS if name == system}
    assert commands["101"] == commands["50"].replace("resnet50", "resnet101")
    config, classes = parse(commands["50"])
    write(tmp_path / "file", system, classes)
    _, report = ctxseg.load_weights(*network_of(config.model, classes), tmp_path / "file")
    assert not report.new and not report.left and report.pixels["order"] == "rgb"


@pytest.mark.parametrize("command, backbone", OTHERS, ids=[name for _, name in OTHERS])
def test_the_commands_of_the_page_name_what_the_runs_have(command, backbone):
    """On other backbones: each array of the network has a published name, and each layer after the backbone has an array."""
    publisher = {"resnest": mcibi.RESNEST, "hrnet": mcibi.HRNET, "vit": vit.MCIBI}[backbone]
    config, classes = parse(command)
    _, tree = network_of(config.model, classes)
    ours = [
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]
    theirs = {publisher.theirs(name) for name in ours if name != SEEN}
    assert None not in theirs and len(theirs) == len(ours) - 1
    layers = [line.split()[0] for line in publisher.table.splitlines() if line.strip()]
    heads = [layer for layer in layers if not layer.startswith("backbone_net.")]
    unused = {layer.split(".")[0] for layer in heads if not any(name.startswith(f"{layer}.") for name in theirs)}
    without_auxiliary = {"auxiliary_decoder"} if "auxiliary.levels=none" in command else set()
    assert unused == without_auxiliary | (
        {"downsample_backbone"} if backbone == "hrnet" and "downsample" not in command else set()
    )


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


@pytest.mark.parametrize(
    "changed, line",
    [
        ({"pos_embed": (1, 50, 192)}, r": backbone/positions \(pos_embed .*: set config.model.backbone.grid=7, or"),
        ({"reg_token": (1, 4, 192)}, "set config.model.backbone.registers=4, or"),
        ({"cls_token": (1, 2, 192)}, r": backbone/class_token \(cls_token \[1, 2, 192\]\) has shape"),
        ({"pos_embed": (2, 197, 192)}, r": backbone/positions \(pos_embed \[2, 197, 192\]\) has shape"),
        ({"pos_embed": ()}, ": backbone/positions"),
    ],
)
def test_what_differs_in_a_transformer_is_named(changed, line, tmp_path):
    names, rows = (RECORDED[f"vit_tiny_patch16_224-16/{key}"] for key in ("names", "shapes"))
    shapes = {str(name): tuple(int(n) for n in row if n) for name, row in zip(names, rows, strict=True)} | changed
    published.write(tmp_path / "file", shapes, unread=("",))
    config = defaults.get_config().model
    config.backbone.update({"name": "vit_tiny_16", "layer_norms": "shared"})
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
