"""`scenes_instances`: composites of the photographs of `scenes`, with a mask for each object.

An image of 128×128 has 3 to 8 objects of three sizes (`SIZES`): ellipses, rectangles and triangles, turned at random, and straight strips
of text. The shape of an object says nothing about its class. Three kinds of classes:

- *appearance*: grass, gravel, retina and galaxies are told apart by their texture;
- *distant cue*: the class of tissue depends on the beacon, retina or galaxies, which is more than 24 pixels away; an image has one beacon;
- *neighbours*: the class of a strip of text depends on the block, grass or gravel, that covers one of its ends. An image has no strip, one
  strip, or two with opposite answers.

Objects touch and hide each other. The second of two tissue objects may touch the first, which has the same class. Free blobs of grass
and gravel touch or partly hide other objects, except strips. A mask has only the visible pixels. At least 40 % of every object is visible.

As in `scenes`, the answers are bits that are independent of the geometry, the crops of the photographs and their brightness.

`python -m ctxseg.data.scenes_instances docs/scenes_instances.png` draws a few images with their masks.
"""

import argparse
import math
from typing import NamedTuple

import cv2
import numpy as np

from ctxseg.data import scenes
from ctxseg.data.scenes import BEACONS, BLOCKS, GAP, SIZE, WALLS, gaps, photographs, random_crop

SPLITS = {"train": 2000, "val": 400}
SIZES = ((14, 18), (24, 32), (42, 54))  # smallest and largest longer side of small, medium and large objects, pixels
SIZE_SHARES = (0.2, 0.3, 0.5)  # how often each size is tried; large objects find no room more often
SHAPES = ("ellipse", "rectangle", "triangle")
BEACON_DISTANCE = 24  # the boxes of the beacon and of tissue are farther apart than this along one axis, pixels
VISIBLE, SMALLEST = 0.4, 64  # minimum share of an object that is visible, and minimum number of its visible pixels
TRIES = 20  # positions tried for one object before the whole layout is drawn again

# Those of `scenes` that have objects here, in its order and colours.
CLASS_NAMES = [name for name in scenes.CLASS_NAMES if name not in ("background", *WALLS)]
PALETTE = [scenes.PALETTE[scenes.CLASS_NAMES.index(name)] for name in CLASS_NAMES]
GROUPS = {
    group: members for group, names in scenes.GROUPS.items() if (members := [n for n in names if n in CLASS_NAMES])
}


class Answers(NamedTuple):
    """The bits that decide the classes in one image; each is 0 or 1."""

    beacon: int  # which of `BEACONS` is in the image
    block: int  # which of `BLOCKS` is at the first strip; the second strip has the other one


class Placed(NamedTuple):
    """An object in an image.

    Attributes:
        kind: beacon, tissue, strip, block or blob.
        number: 0 or 1: the first or the second strip or block; for a blob, which of `BLOCKS` it shows.
        mask: bool `[128,128]`, the whole object, also where later objects hide it.
    """

    kind: str
    number: int
    mask: np.ndarray


def layout(rng: np.random.Generator) -> list[Placed]:
    """The objects of an image. Later ones hide earlier ones. The answers are not used, so positions do not reveal them."""
    tissues, strips = rng.integers(1, 3), rng.integers(3)
    blobs = rng.integers(1, min(3, 7 - int(tissues + 2 * strips)) + 1)
    while (placed := _try_layout(rng, tissues, strips, blobs)) is None:
        pass
    return placed


def _try_layout(rng, tissues, strips, blobs) -> list[Placed] | None:
    placed: list[Placed] = []

    def add(kind, number, draw, neighbour=None):
        """Places an object: the first of the masks of `draw()` that is far enough from all objects but `neighbour`."""
        for _ in range(TRIES):
            mask = draw()
            if mask is None:
                continue
            if not all(_apart(mask, other.mask) for other in placed if other is not neighbour):
                continue
            if kind == "tissue" and gaps(_box(mask), _box(placed[0].mask)) <= BEACON_DISTANCE:
                continue
            placed.append(Placed(kind, int(number), mask))
            return True
        return False

    def free():
        return _free(rng, _random_shape(rng))

    def at(neighbour, shares):
        """An object that touches the neighbour, and hides one of these shares of it."""
        return lambda: _against(_random_shape(rng), neighbour.mask, rng.choice(shares), rng.uniform(0, 2 * np.pi))

    if not add("beacon", 0, free):
        return None
    for i in range(tissues):
        neighbour = placed[1] if i and rng.random() < 0.6 else None
        if not add("tissue", 0, at(neighbour, (0, 0.25)) if neighbour else free, neighbour):
            return None
    for i in range(strips):
        turns = int(rng.integers(4))
        strip = _shape("rectangle", rng.uniform(*SIZES[rng.integers(1, 3)]), rng.uniform(10, 16), turns)
        if not add("strip", i, lambda s=strip: _free(rng, s)):
            return None
        end = _end(placed[-1].mask, turns)
        if not add("block", i, lambda e=end, t=turns: _against(_random_shape(rng), e, 0.6, t * np.pi / 2), placed[-1]):
            return None
    for _ in range(blobs):
        others = [other for other in placed if other.kind != "strip"]
        neighbour = others[rng.integers(len(others))] if rng.random() < 0.7 else None
        if not add("blob", rng.integers(2), at(neighbour, (0, 0.15, 0.35)) if neighbour else free, neighbour):
            return None
    seen, whole = visible(placed).sum((1, 2)), np.array([other.mask.sum() for other in placed])
    return placed if (seen >= VISIBLE * whole).all() and seen.min() >= SMALLEST else None


def visible(placed: list[Placed]) -> np.ndarray:
    """bool `[n,128,128]`: the pixels of each object that no later one hides."""
    masks, uncovered = np.stack([other.mask for other in placed]), np.ones((SIZE, SIZE), bool)
    for mask in masks[::-1]:
        mask &= uncovered
        uncovered ^= mask
    return masks


def _random_shape(rng):
    """A shape of random kind, size and direction."""
    longer = rng.uniform(*SIZES[rng.choice(len(SIZES), p=SIZE_SHARES)])
    return _shape(SHAPES[rng.integers(len(SHAPES))], longer, longer * rng.uniform(0.7, 1), rng.uniform(0, 4))


def _shape(kind, length, width, quarter_turns):
    """bool `[h,w]`: a shape within its bounding box. A triangle has its base, `width`, at one end of `length`."""
    cos, sin = np.cos(quarter_turns * np.pi / 2), np.sin(quarter_turns * np.pi / 2)
    steps = np.arange(-(reach := math.ceil(math.hypot(length, width) / 2)), reach) + 0.5
    along = (steps * cos + steps[:, None] * sin) / (length / 2)
    across = (steps[:, None] * cos - steps * sin) / (width / 2)
    if kind == "ellipse":
        drawn = along**2 + across**2 <= 1
    else:
        limit = (1 - along) / 2 if kind == "triangle" else 1
        drawn = (np.abs(along) <= 1) & (np.abs(across) <= limit)
    return drawn[drawn.any(1)][:, drawn.any(0)]


def _at(shape, top, left):
    """The mask of a shape whose bounding box begins at (top, left). None: it is not inside the image, a pixel from its border."""
    height, width = shape.shape
    if min(top, left) < 1 or top + height >= SIZE or left + width >= SIZE:
        return None
    mask = np.zeros((SIZE, SIZE), bool)
    mask[top : top + height, left : left + width] = shape
    return mask


def _free(rng, shape):
    """The mask of a shape anywhere in the image."""
    return _at(shape, *(int(rng.integers(1, SIZE - n)) for n in shape.shape))


def _against(shape, target, share, angle):
    """The mask of a shape as far in the direction `angle` from the mask `target` as it can be while it hides this share of it.

    For a share of 0, it hides one pixel or a few. None: the shape is too small to hide as much, or not inside the image.
    """
    top, left, height, width = _box(target)
    centre = top + (height - shape.shape[0]) / 2, left + (width - shape.shape[1]) / 2
    needed = max(share * np.count_nonzero(target), 1)
    padded = np.pad(target, SIZE)

    def corner(distance):
        return round(centre[0] + distance * np.sin(angle)), round(centre[1] + distance * np.cos(angle))

    def hides_enough(distance):
        y, x = (n + SIZE for n in corner(distance))
        return np.count_nonzero(padded[y : y + shape.shape[0], x : x + shape.shape[1]] & shape) >= needed

    near, far = 0, SIZE // 2
    if not hides_enough(near):
        return None
    while far - near > 1:
        middle = (near + far) // 2
        near, far = (middle, far) if hides_enough(middle) else (near, middle)
    return _at(shape, *corner(near))


def _end(mask, quarter_turns):
    """The last 4 pixels of a straight strip in the direction of 0 (right), 1 (down), 2 (left) or 3 (up) quarter turns."""
    top, left, height, width = _box(mask)
    rows, columns = slice(top, top + height), slice(left, left + width)
    if quarter_turns % 2:
        rows = slice(top + height - 4, top + height) if quarter_turns == 1 else slice(top, top + 4)
    else:
        columns = slice(left + width - 4, left + width) if quarter_turns == 0 else slice(left, left + 4)
    end = np.zeros_like(mask)
    end[rows, columns] = True
    return end


def _apart(mask, other):
    """Whether two masks are at least `GAP` pixels apart."""
    if gaps(_box(mask), _box(other)) >= GAP:
        return True
    grown = cv2.dilate(mask.view(np.uint8), np.ones((2 * GAP - 1, 2 * GAP - 1), np.uint8)).view(bool)
    return not (grown & other).any()


def _box(mask):
    """int `[4]`: top, left, height and width of a mask."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    return np.array([top, left, height, width])


def scene(
    seed: int, split: str, index: int, answers: Answers | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image; the same arguments give the same bytes.

    Args:
        seed: of the whole data set.
        split: `"train"` or `"val"`.
        index: of the image in its split.
        answers: other answers for the same image; by default the bits of `index`, so that the answers are independent and
            each occurs as often as its opposite.

    Returns:
        image uint8 `[128,128,3]`; masks bool `[n,128,128]`, the visible pixels of each object, disjoint; classes int `[n]`, indices into
        `CLASS_NAMES`.
    """
    answers = answers or Answers(index & 1, index >> 1 & 1)
    rng = np.random.default_rng(np.random.SeedSequence([seed, list(SPLITS).index(split), index, 1]))
    placed = layout(rng)
    photos: dict = photographs()
    image = random_crop(rng, photos["background"][rng.integers(len(photos["background"]))], SIZE, SIZE)
    image = np.ascontiguousarray(image[:, ::-1] if rng.integers(2) else image)
    names = []
    for kind, number, mask in placed:
        # The draws from `rng` must not depend on the answers: `random_crop` draws the same numbers for any texture.
        texture = name = _name(kind, number, answers)
        if kind in ("tissue", "strip"):
            texture = "text" if kind == "strip" else kind
        top, left, height, width = _box(mask)
        turned = kind == "strip" and height > width
        crop = random_crop(rng, photos[texture], *((width, height) if turned else (height, width)))
        window = mask[top : top + height, left : left + width]
        image[top : top + height, left : left + width][window] = (crop.swapaxes(0, 1) if turned else crop)[window]
        names.append(name)
    return image, visible(placed), np.array([CLASS_NAMES.index(name) for name in names])


def _name(kind, number, answers):
    """The class of an object."""
    if kind == "beacon":
        return BEACONS[answers.beacon]
    if kind == "tissue":
        return f"tissue with {BEACONS[answers.beacon]}"
    texture = BLOCKS[number if kind == "blob" else answers.block ^ number]
    return f"text at {texture}" if kind == "strip" else texture


def picture(rows: int = 2, columns: int = 3) -> np.ndarray:
    """A sheet of the first images of `val`, each at twice its size beside its masks in their classes' colours: uint8 `[H,W,3]`."""
    margin, panel = 4, 2 * SIZE
    cells = []
    for i in range(rows * columns):
        image, masks, classes = scene(0, "val", i)
        drawn = np.full_like(image, 70)
        for mask, class_id in zip(masks, classes, strict=True):
            outline = mask & ~cv2.erode(mask.view(np.uint8), np.ones((3, 3), np.uint8)).view(bool)
            drawn[mask] = PALETTE[class_id]
            drawn[outline] = 255
        cell = np.full((panel + 2 * margin, 2 * panel + 3 * margin, 3), 255, np.uint8)
        for j, part in enumerate((image, drawn)):
            left = margin + j * (panel + margin)
            cell[margin : margin + panel, left : left + panel] = part.repeat(2, 0).repeat(2, 1)
        cells.append(cell)
    return np.concatenate([np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)])


if __name__ == "__main__":
    from skimage.io import imsave

    parser = argparse.ArgumentParser(description="Draw a few images beside their masks.")
    parser.add_argument("path", help="PNG file to write")
    imsave(parser.parse_args().path, picture())
