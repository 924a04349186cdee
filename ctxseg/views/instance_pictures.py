"""Pictures of objects: masks, boxes, names and scores over an image; and the predictions of an image as JSON."""

import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as mask_api

from ctxseg.evaluation.instance_samples import SHOWN
from ctxseg.evaluation.instances import coco_result

# The longer side of a picture is at least this many pixels, by a whole factor, so that names are legible on small images.
SMALLEST = 512
# Share of an object's colour in its mask.
OPACITY = 0.45
# A name that would cover this share of another name is left out.
COVERED = 0.5
# Colours of objects, distinct from each other (after Trubetskoy, "List of 20 simple, distinct colors", 2017), in RGB.
COLOURS = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
    (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212), (0, 128, 128), (170, 110, 40),
)  # fmt: skip
CROWD = (150, 150, 150)
TRUTH = (255, 255, 255)


def enlargement(size: tuple[int, int]) -> int:
    """The whole factor by which `draw` enlarges an image of this height and width."""
    return max(1, math.ceil(SMALLEST / max(size)))


def draw(
    image: np.ndarray,
    boxes: np.ndarray,
    names: Sequence[str],
    masks: Sequence,
    crowd: Sequence[bool] | None = None,
    size: tuple[int, int] | None = None,
    colour: tuple[int, int, int] | None = None,
    filled: bool = True,
) -> np.ndarray:
    """Draws objects over an image. Objects whose boxes touch have different colours, and smaller objects are on top of larger ones.

    Args:
        image: uint8 `[h,w,3]`. A small image is enlarged by `enlargement`, by nearest neighbour.
        boxes: `[n,4]`, left, top, right, bottom.
        names: up to n texts, such as a class and a score. The first ones get the best places; without room, later ones are left out.
        masks: n masks, bool or uint8 `[H,W]`, or COCO's compressed run lengths.
        crowd: n booleans: crowds are grey and hatched, below the others; default none.
        size: height and width of the image to which boxes and masks belong, if it is not that of `image`.
        colour: one colour for all; default a colour for each object.
        filled: whether masks are filled, not only outlined.

    Returns:
        uint8 `[h·f,w·f,3]`, f the factor of the enlargement.
    """
    height, width = (n * enlargement(image.shape[:2]) for n in image.shape[:2])
    canvas = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
    scale = np.array([width, height, width, height]) / np.tile((size or image.shape[:2])[::-1], 2)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4) * scale
    crowds = np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd, bool)
    longer = max(height, width)
    colours = [CROWD if c else colour or COLOURS[i] for c, i in zip(crowds, colour_indices(boxes, longer), strict=True)]
    line = max(2, round(longer / 350))
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    order = sorted(range(len(boxes)), key=lambda i: (not crowds[i], -areas[i]))
    for i in order:
        _draw_mask(canvas, masks[i], colours[i], line, filled, crowds[i])
    for i in order:
        left, top, right, bottom = (int(v) for v in boxes[i].round())
        cv2.rectangle(canvas, (left, top), (max(right - 1, left), max(bottom - 1, top)), colours[i], line // 2)
    return _draw_names(canvas, boxes, names, colours)


def draw_detections(image: np.ndarray, detections: Mapping, class_names: Sequence[str], size=None) -> np.ndarray:
    """The detections of an image with a score of at least `SHOWN`, drawn by `draw`, with class and score.

    Args:
        image: uint8 `[h,w,3]`.
        detections: an image of a list of detections, see `evaluation.instances`.
        class_names: K names.
        size: height and width of the image to which the detections belong, if it is not that of `image`.
    """
    scores = np.asarray(detections["scores"])
    order = [i for i in np.argsort(-scores, kind="stable") if scores[i] >= SHOWN]
    names = [f"{class_names[detections['classes'][i]]} {scores[i]:.2f}" for i in order]
    masks = [detections["masks"][i] for i in order]
    return draw(image, np.asarray(detections["boxes"])[order], names, masks, size=size)


def as_json(name: str, detections: Mapping, class_names: Sequence[str], size: tuple[int, int]) -> dict:
    """The detections of an image for other programs, in JSON types; highest score first.

        {"image": "street.jpg", "height": 480, "width": 640, "detections": [
          {"class": "person", "score": 0.98, "bbox": [x, y, width, height],
           "segmentation": {"size": [480, 640], "counts": "…"}}]}

    `bbox` is in pixels of the image, with the origin at its top left corner. `segmentation` is the mask as COCO's compressed run lengths,
    which `pycocotools.mask.decode` turns into uint8 `[height,width]`.

    Args:
        name: of the image.
        detections: an image of a list of detections, see `evaluation.instances`.
        class_names: K names.
        size: height and width of the image.
    """
    order = np.argsort(-np.asarray(detections["scores"]), kind="stable")
    entries = []
    for i in order:
        result = coco_result(*(detections[key][i] for key in ("boxes", "scores", "masks")))
        entries.append({"class": class_names[detections["classes"][i]]} | result)
    return {"image": name, "height": int(size[0]), "width": int(size[1]), "detections": entries}


def colour_indices(boxes: np.ndarray, longer: float) -> list[int]:
    """An index in `COLOURS` for each box `[n,4]`. It differs from those of boxes that touch it or are near, while colours last.

    Of the colours with the fewest uses nearby, the one with the fewest uses in the image is taken. `longer` is the image's longer side.
    """
    margin = longer / 50
    chosen: list[int] = []
    for i, (left, top, right, bottom) in enumerate(boxes):
        before = boxes[:i]
        near = (before[:, 0] <= right + margin) & (before[:, 2] >= left - margin)
        near &= (before[:, 1] <= bottom + margin) & (before[:, 3] >= top - margin)
        nearby = np.bincount([c for c, n in zip(chosen, near, strict=True) if n], minlength=len(COLOURS))
        total = np.bincount(np.array(chosen, int), minlength=len(COLOURS))
        chosen.append(min(range(len(COLOURS)), key=lambda c: (nearby[c], total[c])))
    return chosen


def _draw_mask(canvas, mask, colour, line, filled, hatched):
    """Fills a mask with its colour, and draws its outline in full colour between black lines, which is visible on any image."""
    if isinstance(mask, Mapping):
        mask = mask_api.decode(mask)
    mask = np.asarray(mask, np.uint8)
    # Only the part with the object is handled: of a large image, it is a small one.
    rows, columns = (_scaled(mask.any(1 - axis), canvas.shape[axis]) for axis in (0, 1))
    if not len(rows[0]):
        return
    top, left = rows[0][0], columns[0][0]
    shape = mask[np.ix_(rows[1], columns[1])]
    part = canvas[top : top + shape.shape[0], left : left + shape.shape[1]]
    inside = shape > 0
    if hatched:
        y, x = np.ogrid[top : top + shape.shape[0], left : left + shape.shape[1]]
        inside &= (x + y) // (3 * line) % 2 > 0
    if filled:
        blended = cv2.addWeighted(part, 1 - OPACITY, np.full_like(part, colour), OPACITY, 0)
        np.copyto(part, blended, where=inside[..., None])
    outlines, _ = cv2.findContours(shape, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, outlines, -1, (0, 0, 0), line + 2, offset=(int(left), int(top)))
    cv2.drawContours(canvas, outlines, -1, colour, line, offset=(int(left), int(top)))


def _scaled(occupied, count):
    """The rows (or columns) of the picture that show the object, first to last, and which ones of the mask they show.

    Nearest neighbour with half-pixel centres. `occupied` says which rows of the mask have the object; the picture has `count` rows.
    """
    source = ((np.arange(count) + 0.5) * len(occupied) / count).astype(int)
    (present,) = np.nonzero(occupied[source])
    picture = np.arange(present[0], present[-1] + 1) if len(present) else present
    return picture, source[picture]


def _draw_names(canvas, boxes, names, colours):
    """Names on plates of the objects' colours, where they cover no other name, if there is room."""
    height, width = canvas.shape[:2]
    font = ImageFont.load_default(max(13, round(max(height, width) / 40)))
    ascent, descent = font.getmetrics()
    pad = max(2, round(font.size / 6))
    down = ascent + descent + pad
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    placed: list[tuple[float, ...]] = []
    for (left, top, right, bottom), name, colour in zip(boxes, names, colours, strict=False):
        if not name:
            continue
        across = math.ceil(font.getlength(name)) + 2 * pad
        corners = [(x, y) for y in (top - down, top, bottom, bottom - down) for x in (left, right - across)]
        plates = []
        for x, y in corners:
            x, y = round(max(0, min(x, width - across))), round(max(0, min(y, height - down)))
            plates.append((x, y, x + across, y + down))
        covered = [max((_shared(plate, other) for other in placed), default=0.0) for plate in plates]
        best = int(np.argmin(covered))
        if covered[best] > COVERED:
            continue
        placed.append(plates[best])
        x, y, *_ = plates[best]
        # Relative luminance: above 0.18, black has more contrast than white.
        light = np.dot((np.array(colour) / 255) ** 2.2, (0.2126, 0.7152, 0.0722)) > 0.18
        pen.rectangle((x, y, x + across - 1, y + down - 1), fill=tuple(colour))
        pen.text((x + pad, y + pad / 2), name, fill="black" if light else "white", font=font)
    return np.asarray(picture)


def _shared(a, b):
    """Intersection of two plates, as a share of the smaller one."""
    across, down = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    smaller = min((p[2] - p[0]) * (p[3] - p[1]) for p in (a, b))
    return max(across, 0) * max(down, 0) / smaller
