"""Label images."""

import os
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

from tests.damaged.bench import ErrorLine, Input, label, prepared, samples, user_folder

IDS = label(0)
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
BY_COLOUR = "road 255 0 0\ntree 0 255 0\nsky 0 0 255\n"
RGB = COLOURS[IDS]
TWO_BITS = np.packbits(np.unpackbits(IDS[..., None], axis=2)[..., 6:].reshape(8, -1), axis=1)  # 4 ids a byte


def saved(array, suffix=".png", mode=None, **options):
    """Saves this array as label 0, with this suffix."""

    def make(root):
        (root / "labels/0.png").unlink()
        image = Image.fromarray(array)
        (image.convert(mode) if mode else image).save(root / f"labels/0{suffix}", **options)

    return make


def content(change):
    """Replaces the bytes of label 0 by `change` of a valid file's bytes."""

    def make(root):
        path = root / "labels/0.png"
        Image.fromarray(IDS).save(path)
        path.write_bytes(change(path.read_bytes()))

    return make


def by_opencv(array):
    """Saves this array as label 0, as a PNG of its number of bits."""
    return content(lambda _: cv2.imencode(".png", array)[1].tobytes())


def png(bits, kind, values):
    """Saves label 0 as a PNG of this depth and colour type, which Pillow cannot write."""
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1] if kind else 12, values.shape[0], bits, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(x)) + name + x + struct.pack(">I", zlib.crc32(name + x)) for name, x in chunks]
    return content(lambda _: b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def misnamed(form, **options):
    """Saves label 0 in another format than its suffix, .png, says."""
    return lambda root: Image.fromarray(IDS).save(root / "labels/0.png", form, **options)


def palette(array, colours, bits=8):
    """Saves label 0 as an indexed image."""
    image = Image.fromarray(array).convert("P")
    image.putpalette(np.asarray(colours, np.uint8).tobytes())
    return lambda root: image.save(root / "labels/0.png", bits=bits)


def bomb(png):
    """A PNG whose header claims a gigapixel."""
    png = bytearray(png)
    png[16:24] = (30000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    return bytes(png)


def in_place(make):
    """Removes label 0, and calls `make` with its path."""

    def change(root):
        (root / "labels/0.png").unlink()
        make(root / "labels/0.png")

    return change


L = "/labels/0.png: .*"
CASES = {
    "16 bits": (saved(IDS.astype(np.uint16)), IDS),
    "16 bits, TIFF": (saved(IDS.astype(np.uint16), ".tif"), IDS),
    "32 bits, TIFF": (saved(IDS.astype(np.int32), ".tiff"), IDS),
    "BMP": (saved(IDS, ".BMP"), IDS),
    "grey with alpha": (saved(IDS, mode="LA"), IDS),
    "three equal channels": (saved(np.stack([IDS] * 3, -1)), IDS),
    "equal channels and alpha": (saved(np.stack([IDS] * 3 + [IDS * 0 + 255], -1)), IDS),
    "a palette of 2 bits": (palette(IDS, COLOURS, 2), IDS),
    "TIFF called .png": (misnamed("TIFF"), IDS),
    "255": (saved(np.where(IDS == 2, 255, IDS)), np.where(IDS == 2, 255, IDS)),
    "16 bits, scaled": (saved(IDS.astype(np.uint16) * 257), ErrorLine(L + "label id 257, 514.*classes.txt")),
    "16 bits, three channels": (by_opencv(np.stack([IDS.astype(np.uint16)] * 3, -1)), ErrorLine(L + "label has 16 bits in each")),
    "16 bits, grey with alpha": (png(16, 4, np.dstack([IDS, IDS * 0 + 255]).astype(">u2")), ErrorLine(L + "label has 16 bits in each")),
    "negative": (saved(IDS.astype(np.int32) - 1, ".tif"), ErrorLine("/labels/0.tif: label id -1")),
    "float": (saved(IDS.astype(np.float32), ".tif"), ErrorLine("/labels/0.tif: .*kind F.* ids in one channel")),
    "NaN": (saved(np.full((8, 12), np.nan, np.float32), ".tif"), ErrorLine("/labels/0.tif: .*kind F")),
    "CMYK": (saved(RGB, ".tif", "CMYK"), ErrorLine("/labels/0.tif: .*kind CMYK")),
    "LAB": (saved(RGB, ".tif", "LAB"), ErrorLine("/labels/0.tif: .*kind LAB")),
    "RGB without colours in classes.txt": (saved(RGB), ErrorLine(L + ".*RGB mask.*classes.txt has no colours")),
    "an id too large": (saved(IDS + 7), ErrorLine(L + "label id 7, 8, 9.*classes.txt")),
    "254": (saved(np.where(IDS == 2, 254, IDS)), ErrorLine(L + "label id 254")),
    "an id in one pixel": (saved(np.where(np.arange(96).reshape(8, 12) == 50, 77, IDS)), ErrorLine(L + "label id 77")),
    "shrunk by one": (saved(IDS[:, 1:]), ErrorLine(L + "label .*11x8.* 12x8")),
    "transposed": (saved(IDS.T), ErrorLine(L + "label is 8x12, but its image is 12x8")),
    "one pixel": (saved(IDS[:1, :1]), ErrorLine(L + "label is 1x1")),
    "empty": (content(lambda _: b""), ErrorLine(L + "the file is empty")),
    "cut in half": (content(lambda png: png[: len(png) // 2]), ErrorLine(L + "image file is truncated")),
    "without its end": (content(lambda png: png[:-12]), IDS),
    "only a header": (content(lambda png: png[:33]), ErrorLine(L + "not an image")),
    "text": (content(lambda _: b"0 0 1\n"), ErrorLine(L + "not an image")),
    "zeros": (content(lambda png: bytes(len(png))), ErrorLine(L + "not an image")),
    "a gigapixel": (content(bomb), ErrorLine(L + "megapixels")),
    "a wrong checksum": (content(lambda png: png[:45] + bytes([png[45] ^ 255]) + png[46:]), ErrorLine(L + "broken data stream")),
    "JPEG called .png": (misnamed("JPEG", quality=100), ErrorLine(L + "JPEG.*save it as PNG")),
    "JPEG within TIFF": (saved(RGB, ".tif", compression="jpeg"), ErrorLine("/labels/0.tif: .*JPEG.*save it as PNG"), BY_COLOUR),
    "2 bits of grey": (png(2, 0, TWO_BITS), ErrorLine(L + "label id 85, 170")),
    "WebP called .png": (misnamed("WEBP", quality=50), ErrorLine(L + "WEBP.*save it as PNG")),
    "GIF": (
        lambda root: Image.fromarray(IDS).save((root / "labels/0.png").rename(root / "labels/0.gif")),
        ErrorLine("/labels/0.gif: .*cannot be .gif.*PNG"),
    ),
    "a folder": (in_place(os.mkdir), ErrorLine("images/0.png has no label")),
    "a link to nothing": (in_place(lambda path: os.symlink("nowhere", path)), ErrorLine("/labels/0.png is missing")),
    "a link to itself": (in_place(lambda path: os.symlink("0.png", path)), ErrorLine("0.png: Too many levels")),
    "a pipe": (in_place(os.mkfifo), ErrorLine("/labels/0.png is missing")),
    "only void": (lambda root: [saved_as(root, i, IDS | 255) for i in range(4)], ErrorLine("/labels/.*every pixel of this .* is ignored")),
    "RGBA": (saved(np.dstack([RGB, IDS * 0 + 255])), IDS, BY_COLOUR),
    "colours, transparent": (saved(np.dstack([RGB, IDS * 0])), IDS, BY_COLOUR),
    "colours of 16 bits": (by_opencv(RGB[..., ::-1].astype(np.uint16) * 257), ErrorLine(L + "label has 16 bits"), BY_COLOUR),
    "colours of 16 bits, not scaled": (by_opencv(RGB[..., ::-1].astype(np.uint16)), ErrorLine(L + "label has 16 bits"), BY_COLOUR),
    "blurred colours": (saved(cv2.blur(RGB, (3, 3))), ErrorLine(L + "has the colour.*classes.txt.*resized"), BY_COLOUR),
    "unknown colours": (
        saved(np.where(RGB == [255, 0, 0], [9, 8, 7], RGB).astype(np.uint8)),
        ErrorLine(L + "has the colour .* and 2 more.*classes.txt"), BY_COLOUR,
    ),
}  # fmt: skip


def saved_as(root, i, array):
    Image.fromarray(array).save(root / f"labels/{i}.png")


def reader(make, classes):
    def read(bench, folder):
        root = user_folder(folder, *classes)
        for i in range(1, 4 * bool(classes)):
            saved_as(root, i, COLOURS[label(i)])
        make(root)
        labels = samples(prepared(folder, root))
        return {name: x for split in labels.values() for name, x in split.items()}["0"]

    return read


INPUTS = [Input("labels", name, reader(make, classes), expected) for name, (make, expected, *classes) in CASES.items()]
