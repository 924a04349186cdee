"""Pickles for `weights.py`: with code in them, with sizes that lie, that take long or much memory, or without weights."""

import struct

from tests.damaged.weight_files import NUMBERS, arrays, views
from tests.models.weights.writers import Call, Pickle, Raw, View, view

# Pickles with code in them.

SENTINEL = "executed-by-a-weight-file"  # in the current folder
SHELL = f"touch {SENTINEL}"
PYTHON = f"open({SENTINEL!r}, 'w')"


def text(value):
    """The instructions of a value."""
    return Pickle().write(value)


POSIX = b"cposix\nsystem\n"
CODE = {
    "os.system": Call("posix", "system", (SHELL,)),
    "eval": Call("builtins", "eval", (PYTHON,)),
    "eval of Python 2": Call("__builtin__", "eval", (PYTHON,)),
    "getattr": Call("builtins", "getattr", (Call("builtins", "__import__", ("os",)), "system")),
    "getattr of a function": Call("builtins", "getattr", (Raw(POSIX), "__call__")),
    "a call of the result of getattr": Raw(b"cbuiltins\ngetattr\n" + text(("a", "b")) + b"R" + text((SHELL,)) + b"R"),
    "a call of an object that is ignored": Raw(b"cargparse\nNamespace\n)\x81" + text((SHELL,)) + b"R"),
    "NEWOBJ without a tuple": Raw(b"cargparse\nNamespace\n]\x81"),
    "NEWOBJ of an object": Raw(b"cargparse\nNamespace\n)\x81)\x81"),
    "a process": Call("subprocess", "Popen", ([SHELL],)),
    "code in PyTorch": Call("torch.hub", "load", ("a/b", "c")),
    "a nested pickle": Call("torch.storage", "_load_from_bytes", (SHELL,)),
    "NumPy's runstring": Call("numpy.testing._private.utils", "runstring", (PYTHON, {})),
    "INST": Raw(b"(X" + struct.pack("<I", len(SHELL)) + SHELL.encode() + b"iposix\nsystem\n"),
    "OBJ": Raw(b"(" + POSIX + b"X" + struct.pack("<I", len(SHELL)) + SHELL.encode() + b"o"),
    "NEWOBJ": Raw(b"csubprocess\nPopen\n" + text((SHELL,)) + b"\x81"),
    "NEWOBJ of an allowed name": Raw(b"ccollections\nOrderedDict\n)\x81"),
    "NEWOBJ_EX": Raw(b"csubprocess\nPopen\n)}\x92"),
    "EXT1": Raw(b"\x82\x01"),
    "EXT2": Raw(b"\x83\x01\x01"),
    "EXT4": Raw(b"\x84\x01\x01\x01\x01"),
    "STACK_GLOBAL": Raw(b"\x8c\x05posix\x8c\x06system\x93" + text((SHELL,)) + b"R"),
    "a dotted name": Raw(
        b"\x8c\x0ctorch._utils\x8c\x16_rebuild_tensor.os.system"[:-2] + b"\x93" + text((SHELL,)) + b"R"
    ),
    "an attribute of an allowed name": Raw(b"ccollections\nOrderedDict.fromkeys\n)R"),
    "STACK_GLOBAL of numbers": Raw(b"K\x01K\x02\x93"),
    "BUILD on a function": Raw(b"ctorch._utils\n_rebuild_tensor_v2\n" + text({"__setstate__": 1}) + b"b"),
    "a call of a string": Raw(text("os.system") + text((SHELL,)) + b"R"),
    "a call of a type": Raw(b"ctorch\nFloatStorage\n" + text((1,)) + b"R"),
    "a call of the result of a call": Raw(b"ctorch\ndevice\n" + text(("cpu",)) + b"R" + text((SHELL,)) + b"R"),
    "a call without a tuple": Raw(b"ctorch\ndevice\n" + text([1]) + b"R"),
    "a persistent id of code": Raw(text(("module", "Net", "net.py", PYTHON)) + b"Q"),
    "a persistent id as text": Raw(b"Pstorage\n"),
    "a tensor of a tensor": Call("torch._tensor", "_rebuild_from_type_v2", (1, 2, (3,), 4)),
    "a parameter of code": Call("torch._utils", "_rebuild_parameter", (SHELL, True, None)),
    "items of a function": Raw(b"ctorch\ndevice\nK\x01K\x02s"),
    "an attribute of the memo": Raw(b"h\xff"),
    "an empty stack": Raw(b"0000000000"),
    "no mark": Raw(b"t"),
}


def with_code(code):
    return {"state_dict": views(arrays()), "code": code}


# Values that take long, or much memory.


def nest(count, one=b"\x85"):
    """A tuple in a tuple, and so on."""
    return Raw(b")" + one * count)


def laughs(count):
    """A tuple of a tuple twice, and so on: 2^count values."""
    return Raw(b")" + b"q\x00h\x00\x86" * count)


def key(code):
    """A dictionary with this key."""
    return Raw(b"}" + code.code + b"K\x01s")


def collisions(count):
    """A dictionary with keys that have the same hash."""
    numbers = (((2**61 - 1) * (i + 1)).to_bytes(12, "little") for i in range(count))
    return Raw(b"}(" + b"".join(b"\x8a\x0c" + n + b"K\x01" for n in numbers) + b"u")


HUGE = 2**60
TOO_LONG = "pickle is too long.*state_dict"
DAMAGED = "file.pth .*damaged"
LIES = {
    "LONG_BINPUT of 2^32": (Raw(b"Nr\xff\xff\xff\xff"), "no dictionary|publisher"),
    "BINUNICODE of 4 GB": (Raw(b"X\xff\xff\xff\xff"), "too early"),
    "BINBYTES8 of 2^60": (Raw(b"\x8e" + struct.pack("<Q", HUGE)), "too early"),
    "BINUNICODE8 of 2^63": (Raw(b"\x8d" + struct.pack("<Q", 2**63)), "too early"),
    "BYTEARRAY8 of 2^40": (Raw(b"\x96" + struct.pack("<Q", 2**40)), "too early"),
    "LONG4 of 4 GB": (Raw(b"\x8b\xff\xff\xff\xff"), "too early"),
    "a storage of 2^60 numbers": (View(NUMBERS, 0, (4,), (1,), HUGE), "all numbers of its storage|another size"),
    "a storage of -1 numbers": (View(NUMBERS, 0, (4,), (1,), -1), "invalid"),
    "a storage of 5 numbers": (View(NUMBERS, 0, (4,), (1,), 5), "all numbers of its storage|another size"),
    "a shape of 2^61 · 2^61": (View(NUMBERS, 0, (2**61, 2**61), (1, 1)), "does not fit"),
    "a shape of 2^63": (View(NUMBERS, 0, (2**63,), (1,)), "invalid"),
    "a number 2^40 times": (View(NUMBERS, 0, (2**40,), (0,)), "far larger than the file"),
    "a negative shape": (View(NUMBERS, 0, (-4,), (1,)), "invalid"),
    "a shape of truth values": (View(NUMBERS, 0, (True,), (1,)), "invalid"),
    "a shape of text": (View(NUMBERS, 0, ("4",), (1,)), "invalid"),
    "a shape of 1000 axes": (View(NUMBERS, 0, (1,) * 1000, (1,) * 1000), "invalid"),
    "strides of 2^60": (View(NUMBERS, 0, (2, 2), (HUGE, 1)), "does not fit"),
    "negative strides": (View(NUMBERS, 3, (4,), (-1,)), "invalid"),
    "fewer strides than axes": (View(NUMBERS, 0, (2, 2), (1,)), "invalid"),
    "an offset of 4": (View(NUMBERS, 4, (1,), (1,)), "does not fit"),
    "a negative offset": (View(NUMBERS, -1, (4,), (1,)), "invalid"),
    "a key of nested tuples": (key(nest(100_000)), "keys"),
    "a key of 2^100 values": (key(laughs(100)), "keys"),
    "a persistent id of 2^100 values": (Raw(text(("storage",))[:-1] + laughs(100).code + b"NNNNtQ"), "storage"),
    "a first part of it of 2^100 values": (Raw(b"(" + laughs(100).code + b"NNNNNtQ"), "damaged"),
    "a name of a storage of 2^100 values": (
        Raw(text(("storage",))[:-1] + b"ctorch\nFloatStorage\n" + laughs(100).code + b"NK\x01NtQ"),
        "storage has no name",
    ),
    "not UTF-8": (Raw(b"X\x01\x00\x00\x00\xff"), "damaged"),
    "an odd number of items": (Raw(b"}(K\x01u"), "damaged"),
    "items of a list": (Raw(b"]K\x01K\x02s"), "damaged"),
    "a list of items of a dictionary": (Call("collections", "OrderedDict", ([[1, 2, 3]],)), "damaged"),
    "5 arguments of OrderedDict": (Call("collections", "OrderedDict", (1, 2, 3, 4, 5)), "damaged"),
    "a storage that is a number": (Call("torch._utils", "_rebuild_tensor_v2", (1, 0, (1,), (1,), False, None)), "invalid"),
    "a storage of a type that is text": (Raw(text(("storage", "FloatStorage", "0", "cpu", 4)) + b"Q"), "unknown type"),
    "a conjugate view": (
        Raw(Pickle().view(view(NUMBERS))[:-2] + text({"conj": True}) + b"tR"),
        "conjugate",
    ),
}  # fmt: skip
# A pickle may have 300 000 instructions and 8 MB.
FLOODS = {
    "keys with the same hash": (collisions(50_000), "keys"),
    "400 000 empty lists": (Raw(b"(" + b"]" * 400_000 + b"t"), TOO_LONG),
    "400 000 marks": (Raw(b"(" * 400_000), TOO_LONG),
    "290 000 empty dictionaries": (Raw(b"N(" + b"}" * 290_000), DAMAGED),
    "290 000 entries of the memo": (Raw(b"N" + b"\x94" * 290_000), "no dictionary|publisher"),
    "290 000 lists in lists": (Raw(b"]" * 145_000 + b"a" * 144_999), "no dictionary|publisher"),
    "sets in sets": (Raw(b"\x8f(" * 50_000 + b"\x90" * 50_000), "no dictionary|publisher"),
    "9 MB of text": (Raw(b"X" + struct.pack("<I", 9 << 20) + b"x" * (9 << 20)), "too long|too early"),
    "7 MB of emoji": (Raw(b"X" + struct.pack("<I", 7 << 20) + "😀".encode() * (7 << 18)), "no dictionary|publisher"),
    "a number of 4 MB": (Raw(b"\x8b" + struct.pack("<I", 4 << 20) + b"\x7f" * (4 << 20)), "no dictionary|publisher"),
}  # fmt: skip


def in_dictionary(value):
    """The value as an entry of the weights."""
    return {"state_dict": {"params/x": value}}


# Trees that are no weights.

TREES = {
    "a list": ([view(NUMBERS)], "no dictionary of tensors.*model.state_dict"),
    "a tensor": (view(NUMBERS), "no dictionary of tensors"),
    "nothing": (None, "no dictionary of tensors"),
    "text": ("weights", "no dictionary of tensors"),
    "an empty dictionary": ({}, "no dictionary of tensors"),
    "a dictionary of numbers": ({"a": 1.5}, "no dictionary of tensors"),
    "names that are numbers": ({1: view(NUMBERS)}, "without a name"),
    "dictionaries in dictionaries": (Raw((b"}" + text("model")) * 1000 + b"}" + b"s" * 1000), "no dictionary of tensors"),
    "a dictionary in itself": (Raw(b"}q\x05" + text("model") + b"h\x05s"), "no dictionary of tensors"),
    "5000 small arrays": ({f"a{i}": view(NUMBERS[:1]) for i in range(5000)}, "publisher"),
    "20 000 small arrays": ({f"a{i}": View(NUMBERS, 0, (1,), (1,)) for i in range(20_000)}, TOO_LONG),
    "names with line breaks": ({"a\nerror: b\x1b[2J\r": view(NUMBERS)}, r"a\\nerror: b\\x1b\[2J\\r"),
    "a name of 100 000 letters": ({"a" * 100_000: view(NUMBERS)}, "a{50}…"),
    "a number of 5000 digits in a name": ({f"layer{'1' * 5000}.0.conv1.weight": view(NUMBERS)}, "publisher"),
    "two spellings of a number": (
        {f"layer{i}.0.conv1.weight": view(NUMBERS) for i in ("1", "01")} | {"conv1.weight": view(NUMBERS)},
        "publisher",
    ),
    "a name with and without `module.`": (
        {name: view(NUMBERS) for name in ("conv1.weight", "module.conv1.weight")},
        "two arrays for the same weights: conv1.weight and module.conv1.weight",
    ),
    "a path as a name": ({"../../params/x": view(NUMBERS)}, "publisher"),
}  # fmt: skip
