"""Label images."""

import os
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

from tests.damaged.bench import Input, Line, label, mine, prepared, samples

IDS = label(0)
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
BY_COLOUR = "road 255 0 0\ntree 0 255 0\nsky 0 0 255\n"
RGB = COLOURS[IDS]
TWO_BITS = np.packbits(np.unpackbits(IDS[..., None], axis=2)[..., 6:].reshape(8, -1), axis=1)  # 4 ids a byte


def saved(array, suffix=".png", mode=None, **options):
    """Label 0 is this array, in a file of this suffix."""

    def make(root):
        (root / "labels/0.png").unlink()
        image = Image.fromarray(array)
        (image.convert(mode) if mode else image).save(root / f"labels/0{suffix}", **options)

    return make


def content(change, of=IDS):
    """Label 0 is the file whose bytes `change` makes of a good one's."""

    def make(root):
        Image.fromarray(of).save(root / "labels/0.png")
        path = root / "labels/0.png"
        path.write_bytes(change(path.read_bytes()))

    return make


def by_opencv(array):
    """Label 0 is this array, as PNG of as many bits."""
    return content(lambda _: cv2.imencode(".png", array)[1].tobytes())


def png(bits, kind, values):
    """Label 0 is a PNG of this depth and colour type, which Pillow cannot write."""
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1] if kind else 12, values.shape[0], bits, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(of)) + name + of + struct.pack(">I", zlib.crc32(name + of)) for name, of in chunks]
    return content(lambda _: b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def named(form, **options):
    """Label 0 has another format than its suffix, .png, says."""
    return lambda root: Image.fromarray(IDS).save(root / "labels/0.png", form, **options)


def palette(array, colours, bits=8):
    """Label 0 is an indexed image."""
    image = Image.fromarray(array).convert("P")
    image.putpalette(np.asarray(colours, np.uint8).tobytes())
    return lambda root: image.save(root / "labels/0.png", bits=bits)


def bomb(png):
    """A header of a gigapixel before the same pixels."""
    png = bytearray(png)
    png[16:24] = (30000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    return bytes(png)


def in_place(make):
    """`make` with label 0 removed before."""

    def change(root):
        (root / "labels/0.png").unlink()
        make(root / "labels/0.png")

    return change


L = "/labels/0.png: "
CASES = {
    "16 bits": (saved(IDS.astype(np.uint16)), IDS),
    "16 bits, TIFF": (saved(IDS.astype(np.uint16), ".tif"), IDS),
    "32 bits, TIFF": (saved(IDS.astype(np.int32), ".tiff"), IDS),
    "BMP": (saved(IDS, ".BMP"), IDS),
    "grey with alpha": (saved(IDS, mode="LA"), IDS),
    "three equal channels": (saved(np.stack([IDS] * 3, -1)), IDS),
    "equal channels and alpha": (saved(np.stack([IDS] * 3 + [IDS * 0 + 255], -1)), IDS),
    "a palette of 2 bits": (palette(IDS, COLOURS, 2), IDS),
    "TIFF called .png": (named("TIFF"), IDS),
    "255": (saved(np.where(IDS == 2, 255, IDS)), np.where(IDS == 2, 255, IDS)),
    "16 bits, scaled": (saved(IDS.astype(np.uint16) * 257), Line(L + "label id 257, 514.*something else")),
    "16 bits, three channels": (by_opencv(np.stack([IDS.astype(np.uint16)] * 3, -1)), Line(L + "label has 16 bits in each")),
    "16 bits, grey with alpha": (png(16, 4, np.dstack([IDS, IDS * 0 + 255]).astype(">u2")), Line(L + "label has 16 bits in each")),
    "negative": (saved(IDS.astype(np.int32) - 1, ".tif"), Line("/labels/0.tif: label id -1")),
    "float": (saved(IDS.astype(np.float32), ".tif"), Line("/labels/0.tif: .*kind F.* ids in one channel")),
    "NaN": (saved(np.full((8, 12), np.nan, np.float32), ".tif"), Line("/labels/0.tif: .*kind F")),
    "CMYK": (saved(RGB, ".tif", "CMYK"), Line("/labels/0.tif: .*kind CMYK")),
    "LAB": (saved(RGB, ".tif", "LAB"), Line("/labels/0.tif: .*kind LAB")),
    "RGB without colours in classes.txt": (saved(RGB), Line(L + ".*RGB mask.*classes.txt has no colours")),
    "an id too large": (saved(IDS + 7), Line(L + "label id 7, 8, 9, but classes.txt has 3 lines")),
    "254": (saved(np.where(IDS == 2, 254, IDS)), Line(L + "label id 254")),
    "an id in one pixel": (saved(np.where(np.arange(96).reshape(8, 12) == 50, 77, IDS)), Line(L + "label id 77")),
    "shrunk by one": (saved(IDS[:, 1:]), Line(L + "label is 11x8, but its image is 12x8")),
    "transposed": (saved(IDS.T), Line(L + "label is 8x12, but its image is 12x8")),
    "one pixel": (saved(IDS[:1, :1]), Line(L + "label is 1x1")),
    "empty": (content(lambda _: b""), Line(L + "the file is empty")),
    "half": (content(lambda png: png[: len(png) // 2]), Line(L + "image file is truncated")),
    "without its end": (content(lambda png: png[:-12]), IDS),
    "a header": (content(lambda png: png[:33]), Line(L + "not an image")),
    "text": (content(lambda _: b"0 0 1\n"), Line(L + "not an image")),
    "zeros": (content(lambda png: bytes(len(png))), Line(L + "not an image")),
    "a gigapixel": (content(bomb), Line(L + ".*megapixels")),
    "a wrong checksum": (content(lambda png: png[:45] + bytes([png[45] ^ 255]) + png[46:]), Line(L + "broken data stream")),
    "JPEG called .png": (named("JPEG", quality=100), Line(L + "label is stored as JPEG, which changes values: save it as PNG")),
    "JPEG within TIFF": (saved(RGB, ".tif", compression="jpeg"), Line("/labels/0.tif: label is stored as JPEG"), BY_COLOUR),
    "2 bits of grey": (png(2, 0, TWO_BITS), Line(L + "label id 85, 170")),
    "WebP called .png": (named("WEBP", quality=50), Line(L + "label is stored as WEBP")),
    "GIF": (
        lambda root: Image.fromarray(IDS).save((root / "labels/0.png").rename(root / "labels/0.gif")),
        Line("0.gif: labels cannot be .gif, which changes values"),
    ),
    "a folder": (in_place(os.mkdir), Line("images/0.png has no label")),
    "a link to nothing": (in_place(lambda path: os.symlink("nowhere", path)), Line("/labels/0.png is missing")),
    "a link to itself": (in_place(lambda path: os.symlink("0.png", path)), Line("0.png: Too many levels")),
    "a pipe": (in_place(os.mkfifo), Line("/labels/0.png is missing")),
    "all void": (lambda root: [saved_as(root, i, IDS | 255) for i in range(4)], Line("/labels/.*every pixel of this .* is ignored")),
    "RGBA": (saved(np.dstack([RGB, IDS * 0 + 255])), IDS, BY_COLOUR),
    "colours, transparent": (saved(np.dstack([RGB, IDS * 0])), IDS, BY_COLOUR),
    "colours of 16 bits": (by_opencv(RGB[..., ::-1].astype(np.uint16) * 257), Line(L + "label has 16 bits"), BY_COLOUR),
    "colours of 16 bits, not scaled": (by_opencv(RGB[..., ::-1].astype(np.uint16)), Line(L + "label has 16 bits"), BY_COLOUR),
    "colours that are blurred": (saved(cv2.blur(RGB, (3, 3))), Line(L + ".*has the colour.*resized"), BY_COLOUR),
    "a colour too many": (
        saved(np.where(RGB == [255, 0, 0], [9, 8, 7], RGB).astype(np.uint8)),
        Line(L + "label has the colour .* and 2 more"), BY_COLOUR,
    ),
}  # fmt: skip


def saved_as(root, i, array):
    Image.fromarray(array).save(root / f"labels/{i}.png")


def reader(make, classes):
    def read(bench, folder):
        root = mine(folder, *classes)
        for i in range(1, 4 * bool(classes)):
            saved_as(root, i, COLOURS[label(i)])
        make(root)
        labels = samples(prepared(folder, root))
        return {name: x for split in labels.values() for name, x in split.items()}["0"]

    return read


INPUTS = [Input("labels", what, reader(make, classes), right) for what, (make, right, *classes) in CASES.items()]
