"""Files of `torch.save`: two real ones, and others that `writers.py` writes."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from ctxseg.models.weights import files
from ctxseg.models.weights.tensor import Damaged, Scratch
from tests.models.weights.writers import FORMATS, Call, Pickle, Raw, View, torch_stream, torch_zip, view

REAL = Path(__file__).parent / "real"


def read(tmp_path, data):
    """{name: array} of a file."""
    path = epath.Path(tmp_path / "file.pth")
    path.write_bytes(data)
    return {name: tensor.read(Scratch()) for name, tensor in files.read(path).tensors.items()}


def numbers(*shape, dtype=np.float32):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def assert_same(actual, expected):
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype and actual[name].shape == array.shape, name
        np.testing.assert_array_equal(actual[name], array, name)


@pytest.mark.parametrize("name", ["zip.pth", "stream.pth"])
def test_real_files(name):
    """All types; views that are not contiguous, that overlap, or that share numbers; parameters, buffers; a checkpoint with the rest."""
    tensors = files.read(epath.Path(REAL / name)).tensors
    dtypes = (
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "complex64",
        "uint16",
    )
    expected = {dtype: numbers(2, 3, dtype=jnp.bfloat16 if dtype == "bfloat16" else dtype) for dtype in dtypes}
    expected |= {
        "bool": np.array([True, False]),
        "scalar": np.array(7),
        "none": np.zeros((0, 3), np.float32),
        "transposed": numbers(2, 3).T,
        "steps": numbers(4, 6)[1:3, ::2],
        "expanded": np.broadcast_to(numbers(3), (4, 3)),
        "channels_last": numbers(2, 3, 2, 2),
        "first": numbers(10)[:4],
        "second": numbers(10)[4:].reshape(2, 3),
        "parameter": numbers(2),
        "tagged": numbers(2),
        "buffer": numbers(2),
    }
    scratch = Scratch()  # reused
    assert list(tensors) == list(expected)
    for key, tensor in tensors.items():
        assert tensor.dtype == expected[key].dtype and tensor.shape == expected[key].shape
        np.testing.assert_array_equal(tensor.read(scratch), expected[key], key)


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_written_files(write, tmp_path):
    storage = numbers(12)
    tree = {
        "whole": view(numbers(2, 3)),
        "half": view(numbers(3, dtype=np.float16)),
        "bfloat16": view(numbers(3, dtype=jnp.bfloat16)),
        "scalar": View(numbers(1, dtype=np.int64), 0, (), ()),
        "transposed": View(storage, 0, (3, 4), (1, 3)),
        "part": View(storage, 4, (2, 2), (4, 2)),
        "of a GPU": View(numbers(2), 0, (2,), (1,), module="torch.cuda"),
    }
    expected = {
        "whole": numbers(2, 3),
        "half": numbers(3, dtype=np.float16),
        "bfloat16": numbers(3, dtype=jnp.bfloat16),
        "scalar": np.array(0),
        "transposed": storage.reshape(4, 3).T,
        "part": np.array([[4, 6], [8, 10]], np.float32),
        "of a GPU": numbers(2),
    }
    assert_same(read(tmp_path, write(tree)), expected)


HOOKS = Call("collections", "OrderedDict", ())


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"state_dict": {"a": view(numbers(2))}, "optimizer": {"state": {0: {"step": view(numbers(1))}}}, "epoch": 3},
        {"epoch": view(numbers(1)), "model": {"a": view(numbers(2))}},
        {"model": {"state_dict": {"a": view(numbers(2)), "n": 3}}},
        {"a": view(numbers(2)), "_extra": None, "model": {}, "lr": 0.1},
        Call("collections", "OrderedDict", ([["a", view(numbers(2))]],), {"_metadata": {}}),
        {"a": Call("torch._utils", "_rebuild_parameter", (view(numbers(2)), True, HOOKS))},
    ],
)
def test_the_dictionary_of_tensors_in_a_checkpoint_is_found(checkpoint, tmp_path):
    assert_same(read(tmp_path, torch_zip(checkpoint)), {"a": numbers(2)})


def test_names_of_python_2(tmp_path):
    """Old files have their names as bytes."""
    tree = {"state_dict": Raw(b"}U\x01a" + Pickle().dumps(view(numbers(2)))[2:-1] + b"s")}
    assert_same(read(tmp_path, torch_zip(tree, {"data/0": numbers(2).tobytes()})), {"a": numbers(2)})


BENIGN = {
    "datetime.datetime": Call("datetime", "datetime", ("x",)),
    "pathlib.PosixPath": Call("pathlib", "PosixPath", ("x",)),
    "torchvision.models.resnet.ResNet": Call("torchvision.models.resnet", "ResNet", ()),
    "torch._utils._rebuild_sparse_tensor": Call("torch._utils", "_rebuild_sparse_tensor", ()),
}


@pytest.mark.parametrize("name", BENIGN)
def test_what_is_no_tensor_is_named(name, tmp_path):
    """What training checkpoints often have. The message says what to save instead."""
    with pytest.raises(Damaged, match=f"^it contains {name}, which .*: save model.state_dict"):
        read(tmp_path, torch_zip({"state_dict": {"a": view(numbers(2))}, "best": BENIGN[name]}))


BUFFER = ("mmengine.logging.history_buffer", "HistoryBuffer")
NUMPY = "numpy.core.multiarray"


def test_a_checkpoint_of_mmengine(tmp_path):
    """It has the history of the loss, whose attributes are NumPy's arrays and methods, and NumPy's scalars."""
    type_ = Call("numpy", "dtype", ("f8", False, True), (3, "<", None, None, None, -1, -1, 0))
    array = Call(NUMPY, "_reconstruct", (Raw(b"cnumpy\nndarray\n"), (0,), "b"), (1, (1,), type_, False, "12345678"))
    name = "{}\n{}\n".format(*BUFFER).encode()
    method = Call("__builtin__", "getattr", (Raw(b"c" + name), "min"))
    state = Pickle().write({"_log_history": array, "statistics_methods": {"min": method}, "max_length": 1})
    tree = {
        "meta": {"seed": Call(NUMPY, "scalar", (type_, "12345678")), "classes": ("a", "b")},
        "state_dict": {"a": view(numbers(2))},
        "message_hub": {"log_scalars": {"loss": Raw(b"c" + name + b")\x81" + state + b"b")}},
    }
    for write in FORMATS.values():
        assert_same(read(tmp_path, write(tree)), {"a": numbers(2)})


def test_an_array_of_numpy_among_the_weights(tmp_path):
    """It is not read, and not left out in silence either."""
    array = Call(NUMPY, "_reconstruct", (Raw(b"cnumpy\nndarray\n"), (0,), "b"))
    with pytest.raises(Damaged, match="^b in it is an array of NumPy, not a tensor"):
        read(tmp_path, torch_zip({"a": view(numbers(2)), "b": array}))


def test_big_endian(tmp_path):
    for data in (
        torch_zip({"a": view(numbers(2))}, {"byteorder": b"big"}),
        torch_stream({"a": view(numbers(2))}, little=False),
    ):
        with pytest.raises(Damaged, match="big-endian"):
            read(tmp_path, data)


def test_a_file_that_shrinks_after_it_was_opened(tmp_path):
    path = epath.Path(tmp_path / "file.pth")
    path.write_bytes(torch_zip({"a": view(numbers(5000))}))
    tensor = files.read(path).tensors["a"]
    with open(path, "r+b") as file:
        file.truncate(500)
    with pytest.raises(Damaged, match="too early"):
        tensor.read(Scratch())


def test_bytes_before_the_archive(tmp_path):
    """Zip archives may have them: positions are relative to the directory."""
    assert_same(read(tmp_path, b"PK--" + torch_zip({"a": view(numbers(3))})), {"a": numbers(3)})
