"""Weight files for `config.model.pretrained`: cut, lying, of other networks, with code in them, or larger than they look.

None may be executed, write anything, or take more memory than its size accounts for.
"""

import io
import itertools
import os
import pickle
import tracemalloc
from functools import partial

import flax
import jax
import numpy as np
from PIL import Image
from safetensors.numpy import save

from ctxseg.runs import pretrained
from tests.damaged.bench import NAMES, ErrorLine, Input, call
from tests.damaged.weight_archives import ABOUT, ARRAYS, DESCRIPTIONS, ZIPS, one
from tests.damaged.weight_files import (
    FORMATS,
    NUMBERS,
    TORCH,
    arrays,
    changed,
    export,
    npz,
    resnet50,
    safetensors,
    tiny,
    views,
)
from tests.damaged.weight_pickles import CODE, FLOODS, HUGE, LIES, SENTINEL, TREES, in_dictionary, laughs, with_code
from tests.models.weights.writers import Raw, torch_stream, torch_zip, view

EXPECTED = "the expected weights"
# A file of SIZE bytes may take 3 · SIZE and this much memory.
MEMORY = 64 << 20


def made(make, folder):
    """Writes the file; its path."""
    path = folder / "file.pth"
    path.write_bytes(make() if callable(make) else make)
    return path


def guarded(path, folder, action):
    """Runs `action`; nothing may be executed or written, and no more memory be used than the file accounts for."""
    before, size = listing(folder), os.path.isfile(path) and os.path.getsize(path)
    tracemalloc.start()
    try:
        return action()
    except Exception as e:
        assert str(path) in str(e) and len(str(e)) < 1000 + len(str(path)), e
        raise
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak <= 3 * size + MEMORY, f"{peak} bytes of memory for a file of {size}"
        assert listing(folder) == before and not os.path.exists(SENTINEL), "something was written or executed"


def listing(folder):
    return sorted(folder.rglob("*"))


def opened(make, locate=made):
    """What is found in the file at `locate(make, folder)`, before arrays are read."""

    def read(bench, folder):
        path = locate(make, folder)
        return guarded(path, folder, lambda: pretrained.open_weights(str(path)))

    return read


def trained(make, locate=made):
    """`--mode=train` from that file, into a folder that an error must not create."""

    def read(bench, folder):
        path = locate(make, folder)
        assert bench.run
        flags = [flag for flag in bench.flags if "pretrained" not in flag]
        flags += ["--config.model.frozen=none", f"--config.model.pretrained={path}", f"--workdir={folder / 'new'}"]
        return guarded(path, folder, lambda: call(*flags))

    return read


def loaded(make, network=tiny):
    """Whether `load_weights` fills a `network()`, (model, {name: shape}), with `arrays`."""

    def read(bench, folder):
        path = made(make, folder)
        model, shapes = network()
        before = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
        before = flax.traverse_util.unflatten_dict(before, sep="/")
        result, _ = guarded(path, folder, lambda: pretrained.load_weights(model, before, path, NAMES))
        result = flax.traverse_util.flatten_dict(result, sep="/")
        same = result.keys() == arrays().keys() and all(np.array_equal(result[name], x) for name, x in arrays().items())
        return EXPECTED if same else "other weights"

    return read


def of_run(name):
    """Whether the run's weights, which are 1, are read."""

    def read(bench, folder):
        model, shapes = tiny()
        before = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        before = flax.traverse_util.unflatten_dict(before, sep="/")
        result, _ = pretrained.load_weights(model, before, bench.run / name, NAMES)
        return all((x == 1).all() for x in jax.tree.leaves(result))

    return read


def of_damaged_run(bench, folder):
    run = bench.copy(folder)
    path = max((p for p in (run / "checkpoints/2").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    path.write_bytes(path.read_bytes()[:10])
    return guarded(run, folder, lambda: pretrained.open_weights(str(run)))


# Files that are read.


def with_dtype(dtype):
    return lambda: npz({name: x.astype(dtype) for name, x in arrays().items()})


GOOD = {
    **{name: partial(lambda write: write(arrays()), write) for name, write in FORMATS.items()},
    "float64": with_dtype(np.float64),
    "the other order of bytes": with_dtype(">f4"),
    "Fortran's order": lambda: npz({name: np.asfortranarray(x) for name, x in arrays().items()}),
    "an export that is not compressed": lambda: export(arrays(), compress=False),
    "with the prefix of DataParallel": lambda: torch_zip(views({f"module.{k}": x for k, x in arrays().items()})),
    "in a checkpoint": lambda: torch_stream({"epoch": view(NUMBERS), "state_dict": views(arrays()), "lr": 0.5}),
    "with bytes before the archive": lambda: b"PK" + FORMATS["zip"](arrays()),
    "with other arrays": lambda: torch_zip(views(arrays() | {"params/other": np.arange(3)})),
    "a frame that lies": lambda: torch_zip({"a": Raw(b"\x95" + b"\xff" * 8 + b"N"), "model": views(arrays())}),
}  # fmt: skip

# Files of another kind.


def jpeg():
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    return file.getvalue()


def single_array():
    file = io.BytesIO()
    np.save(file, NUMBERS)
    return file.getvalue()


OTHERS = {
    "empty": (b"", "is empty"),
    "one byte": (b"\x80", "pickle"),
    "text": (b"hello\n" * 100, "neither safetensors"),
    "a page": (b"<!DOCTYPE html><html>" * 100, "neither safetensors"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "neither safetensors"),
    "zeros": (bytes(1000), "neither safetensors"),
    "a JPEG": (jpeg, "neither safetensors"),
    "a single array": (single_array, "neither safetensors"),
    "an HDF5 file": (b"\x89HDF\r\n\x1a\n" + bytes(1000), "neither safetensors"),
    "a gzip": (b"\x1f\x8b\x08" + bytes(1000), "neither safetensors"),
    "a pickle of a list": (pickle.dumps([1, 2]), "a pickle, but not one of torch.save"),
    "a pickle of arrays": (pickle.dumps({"a": NUMBERS}), "a pickle, but not one of torch.save"),
    "the beginning of a zip archive": (b"PK", "damaged"),
    "a zip archive of text": (b"PK\x03\x04" + b"hello" * 100, "damaged"),
}  # fmt: skip


# Files that are sound, but do not fit.


def torchvision_names(depth=50, v1c=False):
    """{name: array of one number} of torchvision's ResNet, or timm's V1c."""
    blocks = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
    layers = ["conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1"] if v1c else ["conv1", "bn1"]
    for i, count in enumerate(blocks, 1):
        for j in range(count):
            layers += [f"layer{i}.{j}.{kind}{c}" for kind, c in itertools.product(("conv", "bn"), (1, 2, 3))]
            layers += [f"layer{i}.{j}.downsample.{k}" for k in (0, 1) if j == 0]
    names = []
    for layer in layers:
        is_norm = "bn" in layer or layer.endswith(("downsample.1", "conv1.1", "conv1.4")) and (v1c or "down" in layer)
        if layer.endswith("conv1.1") and not v1c:
            is_norm = False
        arrays = ("weight", "bias", "running_mean", "running_var") if is_norm else ("weight",)
        names += [f"{layer}.{array}" for array in arrays]
    return {name: view(NUMBERS[:1]) for name in names}


UNFIT = {
    "a wrong shape": (lambda: npz(changed(scores__kernel=NUMBERS)), r"scores/kernel has shape \[4\]"),
    "a transposed kernel": (lambda: npz(changed(stem__conv__kernel=lambda x: x.T)), "stem/conv/kernel has shape"),
    "whole numbers": (with_dtype(np.int32), "has the type int32"),
    "truth values": (with_dtype(bool), "has the type bool"),
    "complex numbers": (with_dtype(np.complex64), "has the type complex64"),
    "NaN": (lambda: safetensors(changed(scores__bias=lambda x: np.full_like(x, np.nan))), "scores/bias has numbers that are not finite"),
    "infinity": (lambda: safetensors(changed(scores__bias=lambda x: np.full_like(x, np.inf))), "scores/bias has .* not finite"),
    "infinity of both signs": (
        lambda: npz(changed(scores__bias=np.array([np.inf, -np.inf, 0], np.float32))),
        "scores/bias has .* not finite",
    ),
    "numbers too large for float32": (lambda: npz(changed(scores__bias=np.full(3, 1e300))), "scores/bias has .* not finite"),
    "NaN in half precision": (
        lambda: npz({name: np.full_like(x, np.nan, np.float16) for name, x in arrays().items()}),
        "not finite",
    ),
    "a lacking array of the backbone": (
        lambda: npz({name: x for name, x in arrays().items() if "stem/conv/kernel" not in name}),
        "lacks backbone/stem/conv/kernel: it is incomplete",
    ),
    "a backbone of another width": (
        lambda: npz({name: np.ones(shape, np.float32) for name, shape in tiny(8)[1].items()}),
        "has shape",
    ),
    "only other arrays": (lambda: npz({"params/other/kernel": NUMBERS}), "no weights of this network"),
    "the classifier of ImageNet": (lambda: torch_zip({"fc.weight": view(NUMBERS)}), "no weights of this network"),
    "a ResNet": (lambda: torch_zip(torchvision_names()), "another backbone"),
}  # fmt: skip
OF_RESNETS = {
    "a tiny network into a ResNet": (lambda: npz(arrays()), "another backbone"),
    "ResNet-101 into ResNet-50": (lambda: torch_zip(torchvision_names(101)), "backbone/res4_1?[0-9].* and this network"),
    "V1c into a 7×7 stem": (lambda: torch_zip(torchvision_names(v1c=True)), "backbone/stem"),
}  # fmt: skip


STREAMS = {
    "a count of 2^60": ({"counts": {"0": HUGE}}, "another size"),
    "a negative count": ({"counts": {"0": -1}}, "another size"),
    "a storage that nothing mentions": ({"keys": ["0", "x"]}, "another size"),
    "a storage twice": ({"keys": ["0", "0"]}, "lacks storage|another size"),
    "storages that are no list": ({"keys": 5}, "no list of storages"),
    "a storage of 2^100 values": ({"keys": [laughs(100)]}, "another size"),
    "no storages": ({"keys": []}, "lacks storage"),
    "code as the list of storages": ({"keys": CODE["os.system"]}, "contains posix.system"),
    "version 1": ({"version": 1}, "version is unknown"),
    "a version of text": ({"version": "x"}, "version is unknown"),
    "code as its version": ({"version": CODE["os.system"]}, "contains posix.system"),
}  # fmt: skip


def cut(write, i):
    """A file without its end, cut at the i-th of 20 places, or without its last byte."""
    data = write(arrays())
    return data[: len(data) * i // 20] if i < 20 else data[:-1]


def inputs():
    for name, make in GOOD.items():
        yield name, loaded(make), EXPECTED
    for name in (".", "checkpoints/1", "checkpoints/2/"):
        yield f"a run, {name}", of_run(name), True
    for (name, write), i in itertools.product(FORMATS.items(), range(21)):
        yield (
            f"{name}, cut {i}",
            opened(partial(cut, write, i)),
            "is empty|download it again|neither|a pickle, but not",
        )
    for name, write in TORCH.items():
        for case, code in CODE.items():
            yield (
                f"{name}, code: {case}",
                opened(partial(write, with_code(code))),
                "file.pth cannot be read as weights: ",
            )
        for case, (value, line) in LIES.items():
            yield f"{name}, {case}", opened(partial(write, in_dictionary(value))), line
        for case, (tree, line) in TREES.items():
            yield f"{name}, {case} as weights", opened(partial(write, tree)), line
        yield (
            f"{name}, code, in training",
            trained(partial(write, with_code(CODE["os.system"]))),
            "contains posix.system",
        )
        yield f"{name}, cut, in training", trained(partial(cut, FORMATS[name], 3)), "too early"
    for name, (value, line) in FLOODS.items():
        yield name, opened(partial(torch_zip, in_dictionary(value))), line
    for name, (options, line) in STREAMS.items():
        yield f"stream, {name}", opened(lambda options=options: torch_stream(views(arrays()), **options)), line
    for name, (make, line) in ZIPS.items():
        yield f"zip archive, {name}", loaded(make), line
    for name, (contents, line) in ARRAYS.items():
        yield f"npz, {name}", opened(partial(one, contents)), line
    for name, (content, line) in DESCRIPTIONS.items():
        yield f"safetensors, {name}", opened(content), line
    for name, (text, line) in ABOUT.items():
        yield f"safetensors, {name}", loaded(lambda text=text: save(arrays(), {"ctxseg": text})), line
    for name, (make, line) in OTHERS.items():
        yield name, opened(make), line
    for name, (make, line) in UNFIT.items():
        yield f"unfit, {name}", loaded(make), line
    for name, (make, line) in OF_RESNETS.items():
        yield f"unfit, {name}", loaded(make, resnet50), line
    for name in ("a wrong shape", "NaN"):
        yield f"unfit, in training, {name}", trained(UNFIT[name][0]), UNFIT[name][1]
    yield "a run whose checkpoint is cut", of_damaged_run, "run/checkpoints/2 .*delete"
    yield "a folder that is no run", trained(b"", no_run), "weights .*runs: expected a file, or the folder of a run"
    yield (
        "a missing file",
        trained(b"", lambda _, folder: folder / "missing.pth"),
        "weights .*missing.pth: there is no such file",
    )
    for read in (trained, opened):
        yield (
            f"{read.__name__}, a URL",
            read(b"", lambda *_: "https://a.invalid/x.pth"),
            "https://a.invalid/x.pth has an unknown scheme: expected a local path",
        )
    for read in (trained, opened):
        yield f"{read.__name__}, a pipe", read(b"", pipe), "file.pth is not a regular file"
    yield (
        "a name that is too long",
        opened(b"", lambda _, folder: folder / ("x" * 300)),
        "cannot be read: File name too long",
    )


def pipe(_, folder):
    os.mkfifo(folder / "file.pth")
    return folder / "file.pth"


def no_run(_, folder):
    (folder / "runs").mkdir()
    return folder / "runs"


INPUTS = [
    Input(
        "weights", name, read, ErrorLine(expected) if isinstance(expected, str) and expected != EXPECTED else expected
    )
    for name, read, expected in inputs()
]
