"""How image files become RGB, in data sets and in predictions: formats × kinds of pixels, unusual files and damaged files."""

import io
import struct
import types
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from ctxseg.data import images, pipeline
from ctxseg.data.builders import labels, records
from ctxseg.data.builders.checks import find_faults, orientation
from ctxseg.data.builders.pairs import Pair

RNG = np.random.default_rng(0)
IMAGE = np.kron(RNG.integers(0, 256, (2, 3, 3)), np.ones((16, 16, 1))).astype(np.uint8)  # blocks that JPEG keeps
GREY = np.ascontiguousarray(IMAGE[..., 0])
ALPHA = np.zeros(GREY.shape, np.uint8)
ALPHA[:, 16:] = 255
COLOUR, SHADE = Image.fromarray(IMAGE), Image.fromarray(GREY)
THREE = np.repeat(GREY[..., None], 3, axis=2)
HIDDEN = ALPHA[..., None] == 0


def saved(image, form, **options):
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def exif(value, kind=3):
    """An EXIF block with an orientation as a number (type 3) or as text (type 2)."""
    value = struct.pack("<HH", value, 0) if kind == 3 else value.ljust(4, b"\0")
    return (
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x0112, kind, 1 if kind == 3 else 2) + value + bytes(4)
    )


def with_chunk(png, name, content):
    """A PNG with another chunk after its pixels."""
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return png[:-12] + chunk + png[-12:]


def lab(*values):
    """A TIFF of CIELAB, where a and b are signed."""
    pixels = b"".join(struct.pack("Bbb", *value) for value in values)
    file = saved(Image.frombytes("LAB", (len(values), 1), pixels), "TIFF")
    assert pixels in file
    return file


def turned(image, orientation):
    """The stored pixels of an image with an EXIF orientation from 1 to 8 (EXIF 2.3, tag 274)."""
    return np.ascontiguousarray({
        1: image, 2: image[:, ::-1], 3: image[::-1, ::-1], 4: image[::-1],
        5: image.swapaxes(0, 1), 6: np.rot90(image), 7: np.rot90(image.swapaxes(0, 1), 2), 8: np.rot90(image, -1),
    }[orientation])  # fmt: skip


def cases():
    """{name: (bytes, RGB)}."""
    white, white_shade = np.where(HIDDEN, 255, IMAGE), np.where(HIDDEN, 255, THREE)
    rgba, la = COLOUR.copy(), SHADE.copy()
    rgba.putalpha(Image.fromarray(ALPHA))
    la.putalpha(Image.fromarray(ALPHA))
    half = COLOUR.copy()
    half.putalpha(128)
    palette, bits = COLOUR.quantize(12), Image.fromarray(GREY > 127)
    key = tuple(map(int, IMAGE[0, 0]))
    keyed = np.where((IMAGE == key).all(-1, keepdims=True), 255, IMAGE)
    files = {}
    for form in ("PNG", "BMP", "TIFF", "PPM"):
        files |= {f"{form} RGB": (saved(COLOUR, form), IMAGE), f"{form} L": (saved(SHADE, form), THREE)}
        files[f"{form} 1"] = (saved(bits, form), np.repeat((GREY > 127)[..., None] * 255, 3, axis=2))
    for form in ("PNG", "BMP", "TIFF", "GIF"):
        files[f"{form} P"] = (saved(palette, form), IMAGE)
    for form in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True} if form == "WEBP" else {}
        files[f"{form} RGBA"] = (saved(rgba, form, **options), white)
        files[f"{form} half"] = (saved(half, form, **options), (IMAGE * (128 / 255) + 127).round())
    for form in ("PNG", "TIFF"):
        files[f"{form} LA"] = (saved(la, form), white_shade)
        files[f"{form} I;16"] = (saved(Image.fromarray(GREY.astype(np.uint16) * 256 + 200), form), THREE)
    for form in ("PNG", "GIF"):
        index = palette.getpixel((0, 0))
        files[f"{form} P transparent"] = (saved(palette, form, transparency=index), keyed)
    files |= {
        "PNG RGB transparent": (saved(COLOUR, "PNG", transparency=key), keyed),
        "PNG L transparent": (
            saved(SHADE, "PNG", transparency=int(GREY[0, 0])), np.where(THREE == GREY[0, 0], 255, THREE)
        ),
        "PNG RGB 16": (cv2.imencode(".png", IMAGE[..., ::-1].astype(np.uint16) * 256 + 200)[1].tobytes(), IMAGE),
        "WEBP RGB": (saved(COLOUR, "WEBP", lossless=True), IMAGE),
        "AVIF RGB": (saved(COLOUR, "AVIF", quality=100, subsampling="4:4:4"), IMAGE),
        **{f"{form} RGB": (saved(COLOUR, form), IMAGE) for form in ("JPEG2000", "TGA", "PCX", "SGI")},
        "JPEG RGB": (saved(COLOUR, "JPEG", quality=98, subsampling=0), IMAGE),
        "JPEG L": (saved(SHADE, "JPEG", quality=98), THREE),
        "JPEG CMYK": (saved(COLOUR.convert("CMYK"), "JPEG", quality=98), IMAGE),
        "TIFF CMYK": (saved(COLOUR.convert("CMYK"), "TIFF"), IMAGE),
        "TIFF YCbCr": (saved(COLOUR.convert("YCbCr"), "TIFF"), IMAGE),
        # White, black, sRGB's 128 (L* 53.6) and its red (L* 54.3, a* 80.8, b* 69.9), at D50.
        "TIFF LAB": (
            lab((255, 0, 0), (0, 0, 0), (137, 0, 0), (138, 81, 70)),
            np.array([[[255] * 3, [0] * 3, [128] * 3, [255, 0, 0]]]),
        ),
    }  # fmt: skip
    numbers = {  # {name: (values in the file, grey levels)}
        "int32 of 8 bits": (GREY.astype(np.int32), GREY),
        "int32 of 16 bits": (GREY.astype(np.int32) * 256 + 255, GREY),
        "int32": (np.int32([[-1000, 0, 1000]]), [[0, 128, 255]]),
        "float of 1": (np.float32([[0, 0.25, 0.5]]), [[0, 64, 128]]),
        "float of 8 bits": (np.float32([[0, 0.6, 100]]), [[0, 1, 100]]),
        "float": (np.float32([[-1, 0, 1, np.nan, -np.inf]]), [[0, 128, 255, 0, 0]]),
        "float of nothing": (np.float32([[np.nan, np.inf]]), [[0, 0]]),
        "float of one value": (np.float32([[1000, 1000]]), [[0, 0]]),
    }
    for name, (values, grey) in numbers.items():
        files[f"TIFF {name}"] = (
            saved(Image.fromarray(values), "TIFF"),
            np.repeat(np.array(grey)[..., None], 3, axis=2),
        )
    for number in range(1, 9):
        stored = Image.fromarray(turned(IMAGE, number))
        for form, options in {"PNG": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}.items():
            files[f"{form} orientation {number}"] = (saved(stored, form, exif=exif(number), **options), IMAGE)
        tag = Image.Exif()
        tag[0x0112] = number
        for compression in (None, "tiff_lzw"):
            files[f"TIFF orientation {number} {compression}"] = (
                saved(stored, "TIFF", exif=tag, compression=compression), IMAGE
            )  # fmt: skip
            files[f"TIFF L orientation {number} {compression}"] = (
                saved(Image.fromarray(turned(GREY, number)), "TIFF", exif=tag, compression=compression), THREE
            )  # fmt: skip
    blocks = {
        "text": exif(b"6", 2), "text of two": exif(b"66", 2), "9": exif(9), "0": exif(0), "nothing": b"Exif\0\0",
        "short": b"Exif\0\0II*\0", "shorter": b"Exif\0\0II", "entry cut": exif(6)[:20], "far": b"Exif\0\0II*\0\xff\xff\xff\x7f",
        "noise": bytes(range(7, 90)),
    }  # fmt: skip
    for name, block in blocks.items():
        for form, options in {"PNG": {}, "WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}.items():
            if form != "JPEG" or block.startswith(b"Exif"):
                files[f"{form} EXIF {name}"] = (saved(COLOUR, form, exif=block, **options), IMAGE)
    late = saved(Image.fromarray(turned(IMAGE, 6)), "PNG")
    files["PNG orientation behind the pixels"] = (with_chunk(late, b"eXIf", exif(6)[6:]), IMAGE)
    files["PNG EXIF damaged behind the pixels"] = (with_chunk(saved(COLOUR, "PNG"), b"eXIf", b"garbage"), IMAGE)
    other = Image.fromarray(255 - IMAGE)
    for form, options in {
        "TIFF": {},
        "WEBP": {"lossless": True},
        "PNG": {},
        "MPO": {"quality": 98, "subsampling": 0},
    }.items():
        files[f"{form} of two frames"] = (saved(COLOUR, form, save_all=True, append_images=[other], **options), IMAGE)
    return files


CASES = cases()


def source_of(name, image):
    """A source of one record with this encoded image."""
    record = {"image": image, "label": records.encode_png(GREY).getvalue(), "name": name.encode()}
    return pipeline.Source(
        types.SimpleNamespace(name="stub", data_dir="", as_data_source=lambda *_, **__: [record]), "train"
    )


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged EXIF
@pytest.mark.parametrize("name", CASES)
def test_every_reader_gives_the_same_pixels(name, tmp_path):
    """Predictions, records made from the file, and records with the file's own bytes (which are not rotated) have the expected pixels."""
    content, expected = CASES[name]
    lossy = any(form in name for form in ("JPEG", "MPO", "AVIF"))
    path = tmp_path / "file"
    path.write_bytes(content)
    actual, size = images.read(path)
    assert actual.dtype == np.uint8 and size == actual.shape[:2] == expected.shape[:2]
    np.testing.assert_allclose(actual, expected, atol=6 if lossy or "LAB" in name or "YCbCr" in name else 1)
    encoded, turn = records.encoded(path)
    assert turn == orientation(path)[0]
    np.testing.assert_allclose(source_of(name, encoded.getvalue()).image(0), actual, atol=2 if lossy else 0)
    if turn == 1:
        np.testing.assert_allclose(source_of(name, content).image(0), actual, atol=2 if lossy else 0)
    else:
        np.testing.assert_allclose(turned(actual, turn), source_of(name, content).image(0), atol=2)
    assert find_faults("stub", {"train": [Pair("x", path, path)]}, lambda _: turned(expected, turn)) == ([], 1)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("number", range(1, 9))
def test_a_label_is_rotated_with_its_image(form, number, tmp_path):
    """Labels fit the pixels as stored, even if a label is a TIFF with its own orientation."""
    tag = Image.Exif()
    tag[0x0112] = number
    stored = turned(IMAGE, number)
    Image.fromarray(stored).save(tmp_path / "image", form, exif=tag, **({"lossless": True} if form == "WEBP" else {}))
    ids = np.kron(np.arange(6).reshape(2, 3), np.ones((16, 16))).astype(np.uint8)
    Image.fromarray(turned(ids, number)).save(tmp_path / "label", "TIFF", exif=tag)
    read = labels.label_image("stub", {i: i for i in range(6)})
    pair = Pair("x", tmp_path / "image", tmp_path / "label")
    assert find_faults("stub", {"train": [pair]}, read) == ([], 1)
    ((_, example),) = records.pair_examples("stub", [pair], read)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(example["label"].getvalue(), np.uint8), -1), ids)


def damaged():
    """{name: bytes}."""
    files = {"nothing": b"", "text": b"no image", "zeros": bytes(1000)}
    for form in ("PNG", "TIFF", "WEBP", "JPEG", "BMP", "GIF", "PPM"):
        noise = Image.fromarray(RNG.integers(0, 256, (32, 48, 3), np.uint8))
        content = saved(noise.quantize(256) if form == "GIF" else noise, form)
        files |= {f"{form} cut in half": content[: len(content) // 2], f"{form} head": content[:20]}
    bomb = bytearray(saved(COLOUR, "PNG"))
    bomb[16:24] = (30000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    return files | {"PNG of a gigapixel": bytes(bomb)}


DAMAGED = damaged()


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_reported(name, tmp_path, recwarn):
    path = tmp_path / "file"
    path.write_bytes(DAMAGED[name])
    with pytest.raises((OSError, ValueError, SyntaxError)):
        images.read(path)
    ((fault,), _) = find_faults("stub", {"train": [Pair("x", path, path)]}, lambda _: GREY)
    assert fault.startswith(f"{path}: ") and "\n" not in fault


def test_the_limit_of_pillow_is_not_used(tmp_path, monkeypatch):
    COLOUR.save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    np.testing.assert_array_equal(images.read(tmp_path / "x.png")[0], IMAGE)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_large_images_are_averaged_down(tmp_path, monkeypatch):
    COLOUR.save(tmp_path / "x.png")
    small, size = images.read(tmp_path / "x.png", GREY.size // 4)
    np.testing.assert_array_equal(small, IMAGE[::2, ::2])  # within blocks, means of 2×2 pixels change nothing
    assert size == GREY.shape
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="48×32 is more than"):
        images.read(tmp_path / "x.png", 10**6)
