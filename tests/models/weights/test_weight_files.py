"""safetensors, .npz and exports; and what of a file is filled into a network."""

import io
import json
import types
import zipfile

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import save

from ctxseg.errors import UserError
from ctxseg.inference import export
from ctxseg.models.weights import files, fit
from ctxseg.models.weights.source import Source, open_source
from ctxseg.models.weights.tensor import Damaged, Scratch, Tensor, copy, empty
from tests.models.weights.writers import torch_zip, view

RNG = np.random.default_rng(0)
DTYPES = (
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint16",
    "uint8",
    "bool",
)
ARRAYS = {dtype: np.arange(6).reshape(2, 3).astype(jnp.bfloat16 if dtype == "bfloat16" else dtype) for dtype in DTYPES}
ARRAYS |= {"scalar": np.array(3, np.float32), "none": np.zeros((0, 2))}
ABOUT = {"class_names": ["sea", "land"], "pixels": {"mean": [1, 2, 3.5], "std": [1, 1, 2], "order": "bgr"}}


def read(tmp_path, data):
    path = epath.Path(tmp_path / "file")
    path.write_bytes(data)
    return files.read(path)


def assert_same(contents, expected):
    assert contents.tensors.keys() == expected.keys()
    for name, tensor in contents.tensors.items():
        assert (tensor.shape, tensor.dtype) == (expected[name].shape, expected[name].dtype)
        np.testing.assert_array_equal(tensor.read(Scratch()), expected[name])


def test_safetensors(tmp_path):
    contents = read(tmp_path, save(ARRAYS, {"ctxseg": json.dumps(ABOUT), "format": "pt"}))
    assert_same(contents, ARRAYS)
    assert (contents.class_names, contents.pixels) == (("sea", "land"), ABOUT["pixels"])


def test_safetensors_that_are_written_here(tmp_path):
    files.write(epath.Path(tmp_path / "file"), ARRAYS, ABOUT)
    contents = files.read(epath.Path(tmp_path / "file"))
    assert_same(contents, ARRAYS)
    assert (contents.class_names, contents.pixels) == (("sea", "land"), ABOUT["pixels"])


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_of_numpy(write, tmp_path):
    arrays = {name: x for name, x in ARRAYS.items() if x.dtype != jnp.bfloat16}
    arrays |= {"fortran": np.asfortranarray(RNG.normal(size=(3, 4, 5))), "big-endian": np.arange(3, dtype=">f4")}
    arrays["larger than what is decompressed at once"] = RNG.integers(0, 9, 3 << 20).astype(np.uint8)
    file = io.BytesIO()
    write(file, **arrays)
    assert_same(read(tmp_path, file.getvalue()), arrays)


def test_an_export(tmp_path):
    """As `export.export` writes it, without the network."""
    weights = {"params/a/kernel": RNG.normal(size=(3, 3, 4, 5)).astype(np.float32), "params/a/bias": np.zeros(5)}
    about = ABOUT | {"crf": None, "superpixels": []}
    exported = types.SimpleNamespace(serialize=lambda: b"network")
    export._write(epath.Path(tmp_path / "export.zip"), exported, weights, about)
    contents = files.read(epath.Path(tmp_path / "export.zip"))
    assert_same(contents, weights)
    assert (contents.class_names, contents.pixels) == (("sea", "land"), ABOUT["pixels"])
    source = open_source(str(tmp_path / "export.zip"))
    assert source.publisher == "ctxseg" and source.tensors.keys() == weights.keys()


def test_members_compressed_by_other_methods_are_refused(tmp_path):
    """zipfile would decompress as much of them as there is."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        with archive.open("a.npy", "w") as member:
            np.save(member, np.zeros(10))
    with pytest.raises(Damaged, match="a.npy is compressed by an unknown method"):
        read(tmp_path, file.getvalue())


@pytest.mark.parametrize(
    "shape", [(70, 5, 3, 3), (130, 7, 1, 1), (64, 1, 7, 7), (1, 3, 3, 3), (5, 0, 3, 3), (3, 4, 1, 2)]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16, np.int32])
def test_kernels_are_transposed(shape, dtype):
    kernel = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    for array in (kernel.transpose(2, 3, 1, 0), kernel, kernel[::2].transpose(2, 3, 1, 0), kernel.T):
        result = empty(array.shape, array.dtype)
        copy(array, result)
        np.testing.assert_array_equal(result, array)
        assert result.flags.c_contiguous


class Network(nn.Module):
    """A backbone of one layer and a classifier."""

    num_classes: int

    @nn.compact
    def __call__(self, images, regions=None):
        x = nn.Conv(4, (3, 3), name="backbone")(images.astype(jnp.float32))
        return nn.Conv(self.num_classes, (1, 1), name="classifier")(x)


def variables(classes=3):
    return Network(classes).init(jax.random.PRNGKey(0), jnp.zeros((1, 4, 4, 3)))


def source(arrays, class_names=()):
    """Weights of a file of this project."""
    tensors = {name: Tensor(x.shape, x.dtype, lambda _, x=x: x) for name, x in arrays.items()}
    return Source("file", "ctxseg", tensors, (), class_names)


def weights(classes=3, dtype=np.float32):
    shapes = {"backbone/kernel": (3, 3, 3, 4), "backbone/bias": (4,), "classifier/kernel": (1, 1, 4, classes)}
    shapes["classifier/bias"] = (classes,)
    return {f"params/{name}": RNG.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16, ">f4"])
def test_all_arrays_become_those_of_the_file(dtype):
    expected = weights(dtype=dtype)
    result, report = fit.fit(Network(3), variables(), source(expected), ("a", "b", "c"))
    for name, array in expected.items():
        _, layer, leaf = name.split("/")
        actual = result["params"][layer][leaf]
        assert isinstance(actual, jax.Array) and actual.dtype == jnp.float32
        np.testing.assert_array_equal(actual, array.astype(np.float32))
    assert not report.new and not report.left and not report.by_class


def test_classes_are_filled_by_name():
    initial, given = variables(3), weights(2)
    result, report = fit.fit(Network(3), initial, source(given, ("sea", "land")), ("sky", "land", "sea"))
    kernel, bias = (result["params"]["classifier"][leaf] for leaf in ("kernel", "bias"))
    np.testing.assert_array_equal(kernel[..., 1:], given["params/classifier/kernel"][..., ::-1])
    np.testing.assert_array_equal(kernel[..., 0], initial["params"]["classifier"]["kernel"][..., 0])
    np.testing.assert_array_equal(bias[1:], given["params/classifier/bias"][::-1])
    assert report.classes == ("land", "sea") and set(report.by_class) == set(report.new) != set()


def test_other_classes_without_names_are_left():
    _, report = fit.fit(Network(3), variables(), source(weights(2)), ("a", "b", "c"))
    assert set(report.left) == set(report.new) == {"params/classifier/kernel", "params/classifier/bias"}


def test_another_number_of_the_same_classes_is_an_error():
    with pytest.raises(UserError, match="^file: classifier/kernel has shape .*4, 2.* in it and .*4, 3"):
        fit.fit(Network(3), variables(), source(weights(2), ("a", "b", "c")), ("a", "b", "c"))


def fitted(network, file):
    """Names of the arrays taken, left and new, without "params/"; `network` and `file` are {name: length of a vector}."""
    trees = [
        {f"params/{name}": np.full(n, i, np.float32) for name, n in x.items()} for i, x in enumerate((network, file))
    ]
    result, report = fit.fit(Network(3), flax.traverse_util.unflatten_dict(trees[0], sep="/"), source(trees[1]))
    result = flax.traverse_util.flatten_dict(result, sep="/")
    assert {name for name, x in result.items() if x[0] == 1} == set(report.taken)
    return [sorted(name.removeprefix("params/") for name in names) for names in (report.taken, report.left, report.new)]


SEGMENTER = {"backbone/w": 2, "context/a": 3, "memory/w": 4, "classifier/w": 5, "auxiliary/w": 6}
DETECTOR = {"backbone/w": 2, "neck/a": 3, "rpn/w": 4, "box_head/w": 5, "box_head/v": 5}


def renamed(parts):
    """With another array in place of `a`."""
    return {name.replace("/a", "/b"): n for name, n in parts.items()}


@pytest.mark.parametrize(
    "network, file, left",
    [
        # Nothing conflicts: what fits is taken, as of a context with fewer stages.
        (SEGMENTER, renamed(SEGMENTER), set()),
        (SEGMENTER | {"context/more": 3}, SEGMENTER, set()),
        # Another kind of context: its conflict, or one after it, leaves the stages from there on.
        (SEGMENTER | {"context/more": 3}, SEGMENTER | {"context/a": 9}, {"context/a", "memory/w", "classifier/w"}),
        (SEGMENTER, renamed(SEGMENTER) | {"memory/w": 9}, {"memory/w", "classifier/w"}),
        (SEGMENTER, renamed(SEGMENTER) | {"classifier/w": 9}, {"classifier/w"}),
        (SEGMENTER, SEGMENTER | {"connections/x": 1, "context/a": 9}, {"context/a", "memory/w", "classifier/w"}),
        # Another classifier, or one without a context.
        (SEGMENTER, SEGMENTER | {"classifier/w": 9, "classifier/x": 9}, {"classifier/w"}),
        (SEGMENTER, {"backbone/w": 2, "classifier/w": 9}, {"classifier/w"}),
        # Auxiliary heads.
        (SEGMENTER, renamed(SEGMENTER) | {"auxiliary/w": 9}, {"auxiliary/w"}),
        (SEGMENTER, SEGMENTER | {"auxiliary/w": 9, "auxiliary/x": 1}, {"auxiliary/w"}),
        # Heads of a detector.
        (DETECTOR, renamed(DETECTOR) | {"rpn/w": 9}, {"rpn/w"}),
        (DETECTOR | {"neck/more": 1}, DETECTOR | {"neck/a": 9}, {"neck/a", "rpn/w", "box_head/w", "box_head/v"}),
    ],
)
def test_parts_of_another_kind_are_left(network, file, left):
    taken = (network.keys() & file.keys()) - left
    assert fitted(network, file) == [sorted(taken), sorted(file.keys() - taken), sorted(network.keys() - taken)]


@pytest.mark.parametrize(
    "change, remedy",
    [
        ({"backbone/w": 9}, "set config.model.backbone as in the file's network"),
        ({"context/a": 9}, "set config.model.context as in the file's network"),
        ({"classifier/w": 9}, "set config.model.classifier as in the file's network"),
        ({"auxiliary/w": 9}, "set config.model.auxiliary as in the file's network"),
        # What is after a part says nothing of its kind.
        ({"context/a": 9, "classifier/x": 1}, "set config.model.context as in the file's network"),
    ],
)
def test_another_shape_in_a_part_of_the_same_kind_is_an_error(change, remedy):
    (name, length), *_ = change.items()
    line = (
        rf"^file: {name} has shape \[{length}\] in it and \[{SEGMENTER[name]}\] in this network: {remedy}, or .*=none$"
    )
    with pytest.raises(UserError, match=line):
        fitted(SEGMENTER, SEGMENTER | change)


def test_a_file_of_which_nothing_fits_is_an_error():
    with pytest.raises(UserError, match=r"^file: classifier/w has shape \[9\] in it and \[5\] in this network"):
        fitted(SEGMENTER, {"classifier/w": 9})


def test_the_line_of_a_report_is_printable():
    names = {"params/\x1b[2J\nerror: x": np.ones(1), f"params/{'y' * 5000}": np.ones(1)}
    _, report = fit.fit(Network(3), variables(), source(weights() | names))
    assert str(report).isprintable() and len(str(report)) < 500


def test_wrapped_names(tmp_path):
    """Those of `DataParallel` and `torch.compile`."""
    for prefix in ("module.", "_orig_mod.", "_orig_mod.module."):
        (tmp_path / "file").write_bytes(torch_zip({f"{prefix}conv1.weight": view(np.ones((4, 3, 7, 7), np.float32))}))
        found = open_source(str(tmp_path / "file"))
        assert {name: tensor.shape for name, tensor in found.tensors.items()} == {
            "params/backbone/stem/conv/kernel": (7, 7, 3, 4)
        }
