"""Zip archives, arrays of NumPy and safetensors for `weights.py`, whose descriptions lie."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np

from tests.damaged.weight_files import KERNEL, NUMBERS, archive, arrays, compressed_npz, export, npz, views
from tests.damaged.weight_pickles import DAMAGED, HUGE, SHELL, TOO_LONG
from tests.models.weights.writers import Pickle, torch_zip, view

# Zip archives whose directory lies.


def directory(data, offset, form, value, member=b"archive/data/0"):
    """A zip archive with another value at `offset` of a member's entry in the directory."""
    start = data.rindex(b"PK\x01\x02", 0, data.rindex(member, 0, len(data) - 22) + 1)
    return patched(data, start + offset, form, value)


def end(data, offset, form, value):
    """A zip archive with another value at `offset` of the end of its directory."""
    return patched(data, data.rindex(b"PK\x05\x06") + offset, form, value)


def patched(data, offset, form, value):
    return data[:offset] + struct.pack(form, value) + data[offset + struct.calcsize(form) :]


def base():
    return torch_zip(views(arrays()))


def zeros(count, name="params/x.npy"):
    """A .npy of zeros, as bytes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count,)})
    return file.getvalue() + bytes(count)


def npy(header, data=b"", version=1, length=None):
    """A .npy with this text as its header."""
    text = header.encode()
    size = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


def header(descr="'<f4'", shape="(1,)"):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n"


def one(contents, name="params/x.npy", compression=zipfile.ZIP_DEFLATED):
    """An .npz of one member."""
    return archive({name: contents}, compression)


ZIPS = {
    "a size of 2^31 in the directory": (lambda: directory(base(), 24, "<I", 2**31), "unknown method"),
    "both sizes of 2^31 in the directory": (
        lambda: directory(directory(base(), 24, "<I", 2**31), 20, "<I", 2**31),
        "all numbers of its storage|too early",
    ),
    "the size of the pickle is 2^31": (
        lambda: directory(base(), 24, "<I", 2**31, b"archive/data.pkl"),
        "too long",
    ),
    "a member elsewhere": (lambda: directory(base(), 42, "<I", 5), "directory"),
    "a member behind the end": (lambda: directory(base(), 42, "<I", 2**31), "too early"),
    "a directory of 3 GB": (lambda: end(base(), 12, "<I", 3 << 30), "damaged|too long"),
    "a directory of 10 bytes": (lambda: end(base(), 12, "<I", 10), "damaged"),
    "a directory elsewhere": (lambda: end(base(), 16, "<I", 2**31), "damaged|elsewhere|too early|header|directory"),
    "50 000 members": (lambda: archive([(f"{i:05}.npy", b"") for i in range(50_000)]), "directory of its zip archive is too long"),
    "20 000 members": (lambda: archive([(f"{i:05}.npy", b"") for i in range(20_000)]), "not an array"),
    "a member twice": (lambda: archive([("a.npy", zeros(1)), ("a.npy", zeros(2))]), "same name"),
    "an archive without members": (lambda: archive({}), "neither"),
    "an archive of pictures": (lambda: archive({"a.png": b"x", "b.png": b"y"}), "neither"),
    "two pickles": (lambda: archive({"a/data.pkl": b"x", "b/data.pkl": b"y"}), "neither"),
    "a pickle above the archive": (lambda: archive({"../data.pkl": pickle.dumps({}), "../data/0": b"1234"}), "no dictionary"),
    "an absolute name": (lambda: archive({"/data.pkl": pickle.dumps([])}), "no dictionary"),
    "an archive in an archive": (lambda: archive({"x.npy": archive({"x.npy": zeros(1)})}), "x.npy is not an array"),
    "a pickle that is an archive": (lambda: torch_zip(archive({"archive/data.pkl": b"N."})), DAMAGED + "|instruction"),
    "an export in an export": (lambda: export({}, weights=export(arrays())), "not an array"),
    "a file of PyTorch in an export": (lambda: export({}, weights=base()), "not an array"),
    "an export without weights": (lambda: archive({"classes.json": b"{}", "model.jax": b""}), "neither"),
    "a compressed storage": (lambda: torch_zip(views(arrays()), compression=zipfile.ZIP_DEFLATED), "is compressed"),
    "a storage compressed by bzip2": (lambda: torch_zip(views(arrays()), compression=zipfile.ZIP_BZIP2), "unknown method"),
    "arrays compressed by LZMA": (lambda: one(zeros(1 << 26), compression=zipfile.ZIP_LZMA), "unknown method"),
    "an encrypted member": (lambda: directory(base(), 8, "<H", 1), "encrypted"),
    "an encrypted array": (lambda: directory(npz(arrays()), 8, "<H", 1, KERNEL.encode()), "encrypted"),
    "a lacking storage": (lambda: torch_zip(views(arrays()), lacking=("data/3",)), "lacks archive/data/3"),
    "a lacking pickle": (lambda: torch_zip(views(arrays()), lacking=("data.pkl",)), "neither"),
    "a storage in another folder": (
        lambda: torch_zip(Pickle().dumps({"x": view(NUMBERS)}).replace(b"X\x01\x00\x00\x000", b"X\x0b\x00\x00\x00../../etc/x")),
        "lacks archive/data/../../etc/x",
    ),
    "a bomb as a pickle": (lambda: torch_zip(bytes(80 << 20), compression=zipfile.ZIP_DEFLATED), TOO_LONG),
    "a bomb as a pickle whose size lies": (
        lambda: directory(torch_zip(bytes(80 << 20), compression=zipfile.ZIP_DEFLATED), 24, "<I", 1000, b"archive/data.pkl"),
        "damaged|instruction",
    ),
    "a bomb as an array": (lambda: one(zeros(80 << 20), f"{KERNEL}.npy"), "far larger than the file"),
    "a bomb as a header": (lambda: one(npy("x", bytes(80 << 20), 2, 80 << 20)), "not an array"),
    "a bomb as weights of an export": (lambda: export({}, weights=bytes(80 << 20)), "size in it is too large"),
    "a bomb as weights of an export whose size lies": (
        lambda: directory(export({}, weights=bytes(80 << 20)), 24, "<I", 1000, b"weights.npz"),
        "damaged",
    ),
    "a bomb as classes of an export": (
        lambda: export(arrays(), about={"class_names": ["x" * (80 << 20)]}),
        "size in it is too large",
    ),
    "a bomb as classes whose size lies": (
        lambda: directory(export(arrays(), about={"a": "x" * (80 << 20)}), 24, "<I", 1000, b"classes.json"),
        "not JSON|damaged",
    ),
    "another checksum": (lambda: one(zeros(50)).replace(b"PK\x01\x02", b"PK\x01\x03"), "damaged"),
    "damaged compression": (lambda: damaged_compression(), "damaged"),
}  # fmt: skip


def damaged_compression():
    data = compressed_npz(arrays())
    start = data.index(b"PK\x03\x04") + 200
    return data[:start] + bytes(50) + data[start + 50 :]


ARRAYS = {
    "a shape of 2^60": (npy(header(shape=f"({HUGE},)")), "another size"),
    "a shape of 2^60 numbers of no bytes": (npy(header("'|V0'", f"({HUGE},)")), "not an array of numbers"),
    "a shape of 0 and 2^60": (npy(header(shape=f"(0, {HUGE})")), "far larger than the file"),
    "a negative shape": (npy(header(shape="(-1,)"), b"1234"), "invalid|another size"),
    "a shape of truth values": (npy(header(shape="(True,)"), b"1234"), "invalid|not an array"),
    "a header of 4 GB": (npy(header(), b"1234", 2, 2**32 - 1), "not an array"),
    "a header of nested brackets": (npy("(" * 9000), "not an array"),
    "a header of minus signs": (npy("-" * 9000 + "1"), "not an array"),
    "a header of code": (npy(f"__import__('os').system({SHELL!r})"), "not an array"),
    "version 9": (npy(header(), b"1234", 9), "another size|not an array"),
    "Python objects": (npy(header("'|O'"), pickle.dumps(1)), "not an array of numbers"),
    "text": (npy(header("'<U4'"), bytes(16)), "not an array of numbers"),
    "times": (npy(header("'<M8[s]'"), bytes(8)), "not an array of numbers"),
    "records": (npy(header("[('a', '<f4')]"), bytes(4)), "not an array of numbers"),
    "nested records": (npy(header("[('a', " * 500 + "'<f4'" + ")]" * 500)), "not an array"),
    "an unknown type": (npy(header("'<f3'"), bytes(4)), "not an array"),
    "too few numbers": (npy(header(shape="(2,)"), bytes(4)), "another size"),
    "too many numbers": (npy(header(), bytes(8)), "another size"),
    "an empty member": (b"", "not an array"),
    "text instead": (b"hello", "not an array"),
}  # fmt: skip


# safetensors whose description lies.


def raw(text, data=b"", length=None):
    text = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape=(1,), offsets=(0, 4), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def described(data=b"1234", **entries):
    return raw(json.dumps(entries), data)


DESCRIPTIONS = {
    "a length of 2^60": (raw("{}", length=HUGE), "too early"),
    "a length of 2^64 - 1": (raw("{}", length=2**64 - 1), "too early"),
    "a length of 3 MB": (raw("{" + " " * (3 << 20) + "}"), "header"),
    "a length of 0": (raw("{}", length=0), "not JSON"),
    "a length of 1": (raw("{}", length=1), "not JSON"),
    "not JSON": (raw("{x}"), "not JSON"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "not JSON"),
    "nested brackets": (raw('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), "not JSON"),
    "two arrays of one name": (raw('{"a": %s, "a": %s}' % ((json.dumps(entry()),) * 2), b"1234"), "same name"),
    "arrays that overlap": (described(a=entry(), b=entry()), "overlap"),
    "arrays that overlap in part": (described(b"12345678", a=entry((1,), (0, 4)), b=entry((1,), (2, 6))), "overlap"),
    "a gap": (described(b"123456789012", a=entry(), b=entry((1,), (8, 12))), "gaps"),
    "offsets in reverse": (described(a=entry((1,), (4, 0))), "another size"),
    "offsets behind the end": (described(a=entry((1,), (0, 4)), b=entry((1,), (4, 8))), "too early"),
    "offsets of 2^60": (described(a=entry((HUGE // 4,), (0, HUGE))), "too early"),
    "negative offsets": (described(a=entry((1,), (-4, 0))), "invalid"),
    "three offsets": (described(a=entry((1,), (0, 4, 8))), "another size"),
    "numbers with fractions": (described(a=entry((1.0,))), "invalid"),
    "a number of 4000 digits": (described(a=entry((10**4000,))), "invalid"),
    "a shape of 100 000 axes": (described(a=entry((1,) * 100_000)), "invalid"),
    "a shape of 2^61 · 2^61": (described(a=entry((2**61, 2**61))), "another size"),
    "a shape that is text": (described(a=entry() | {"shape": "1"}), "invalid"),
    "no shape": (described(a={"dtype": "F32", "data_offsets": [0, 4]}), "invalid"),
    "an entry that is a number": (described(a=1), "no type"),
    "an unknown type": (described(a=entry(dtype="F3")), "type F3"),
    "a type that is a list": (described(a=entry(dtype=[])), "no type"),
    "bytes after the arrays": (described(b"12345678", a=entry()), "longer"),
    "no arrays": (raw("{}"), "no arrays"),
    "300 000 empty objects": (raw('{"a":[' + "{}," * 300_000 + "{}]}"), "no type"),
    "20 000 arrays": (
        described(bytes(80_000), **{f"a{i}": entry((1,), (4 * i, 4 * i + 4)) for i in range(20_000)}),
        "publisher",
    ),
    "a description that is a list": (raw('{"__metadata__": [1]}'), "no arrays"),
}  # fmt: skip
# Of a file of this project: the class names and the pixels.
ABOUT = {
    "a description that is not JSON": ("{x", "not JSON"),
    "a nested description": ("[" * 100_000, "not JSON"),
    "classes and pixels that are a list": ("[]", "not a JSON object"),
    "classes that are numbers": ('{"class_names": [1, 2, 3]}', "description is damaged"),
    "classes that are text": ('{"class_names": "abc"}', "description is damaged"),
    "two more classes than rows": ('{"class_names": ["a", "b", "road", "sky", "c"]}', "names 5 classes.* has 3"),
    "fewer classes than rows": ('{"class_names": ["sky"]}', "names 1 classes.* has 3"),
    "pixels that are a list": ('{"pixels": [1]}', "description is damaged"),
    "pixels with a deviation of 0": ('{"pixels": {"std": [1, 0, 1]}}', "pixels is damaged"),
    "pixels that are NaN": ('{"pixels": {"mean": [NaN, 0, 1]}}', "pixels is damaged"),
    "pixels of four channels": ('{"pixels": {"mean": [1, 1, 1, 1]}}', "pixels is damaged"),
    "pixels in another order": ('{"pixels": {"order": "gbr"}}', "pixels is damaged"),
    "pixels of another kind": ('{"pixels": {"x": 1}}', "pixels is damaged"),
}  # fmt: skip
