"""Our networks compute what the published ones do, with weights of the published names from a file (`tests/references/published.py`)."""

import re

import jax
import numpy as np
import pytest

import ctxseg
from ctxseg.configs import defaults
from ctxseg.errors import UserError
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
