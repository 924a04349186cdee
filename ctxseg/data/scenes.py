"""`scenes`: composites of the photographs in scikit-image's wheel, made to measure the use of context.

Every image asks one question of each kind, and the answers are three independent bits (`Answers`):

- *distant cue*: the class of the tissue squares depends on the beacon (retina or galaxies), which is more than 48 pixels
  away; an image has one beacon;
- *scale*: a brick wall is 120 pixels long, or cut into two walls of 52 pixels, which are another class;
- *neighbours*: the class of a strip of printed text depends on the block, grass or gravel, at one of its ends.
  Each image has two strips with opposite answers and one free blob of each texture, so that neither the amounts of grass
  and gravel nor the free blobs tell anything about a strip.

Geometry, crops of the photographs and brightness are drawn independently of the answers: another answer changes the labels
of the objects that it decides, but not their pixels.

`python ctxseg/data/scenes.py docs/scenes.png` draws a few scenes beside their labels.
"""

import argparse
import functools
from typing import NamedTuple

import numpy as np

SIZE = 128  # height and width of a scene, pixels
BEACONS, WALLS, BLOCKS = ("retina", "galaxies"), ("short wall", "long wall"), ("grass", "gravel")  # by answer
SPLITS = {"train": 2000, "val": 400}
BEACON_DISTANCE = 48  # a beacon and a tissue square are farther apart than this: pixels along one axis, edge to edge
GAP = 3  # minimum between objects that do not belong together, pixels

WALL_LENGTH, WALL_WIDTH, WALL_CUT = 120, 18, 16  # the cut, in the middle, shows the background
STRIP_LENGTH, STRIP_WIDTH = 56, 16
BLOCK = 20  # side of the blocks that touch strips and of the free blobs
BEACON = 28
TISSUE = (26, 30)  # smallest and largest side
TRIES = 100  # positions tried for one object before the whole layout is drawn again

_CLASSES = (
    ("background", "appearance", (70, 70, 70)),
    ("grass", "appearance", (60, 160, 60)),
    ("gravel", "appearance", (170, 150, 110)),
    ("retina", "appearance", (255, 120, 80)),
    ("galaxies", "appearance", (40, 30, 120)),
    ("tissue with retina", "distant_cue", (240, 40, 130)),
    ("tissue with galaxies", "distant_cue", (120, 60, 255)),
    ("short wall", "scale", (255, 210, 0)),
    ("long wall", "scale", (180, 70, 0)),
    ("text at grass", "neighbours", (150, 255, 120)),
    ("text at gravel", "neighbours", (0, 200, 255)),
)
CLASS_NAMES = [name for name, _, _ in _CLASSES]
PALETTE = [list(colour) for _, _, colour in _CLASSES]
GROUPS = {
    group: [name for name, group_of_class, _ in _CLASSES if group_of_class == group]
    for group in ("appearance", "distant_cue", "scale", "neighbours")
}


class Answers(NamedTuple):
    """The bits that decide the classes in one scene; each is 0 or 1."""

    beacon: int  # which of `BEACONS` is in the scene
    extent: int  # 0: a wall cut in two, 1: a whole one
    block: int  # which of `BLOCKS` is at the first strip; the second strip has the other one


class Layout(NamedTuple):
    """The positions of all objects in a scene: int `[n,4]` arrays of rectangles (top, left, height, width), in pixels."""

    beacon: np.ndarray  # [1,4]
    tissue: np.ndarray  # [2,4]
    wall: np.ndarray  # [1,4], whole
    strips: np.ndarray  # [2,4]
    blocks: np.ndarray  # [2,4]: block i touches one end of strip i
    blobs: np.ndarray  # [2,4]: grass, gravel


def gaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pixels between rectangles along the axis with the larger gap (Chebyshev distance); negative where they overlap.

    Args:
        a: `[...,4]` rectangles (top, left, height, width).
        b: the same, of a shape that broadcasts with `a`'s.

    Returns:
        int `[...]`; 0 where the rectangles touch by an edge or a corner.
    """
    start = np.maximum(a[..., :2], b[..., :2])
    end = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    return (start - end).max(-1)


def layout(rng: np.random.Generator) -> Layout:
    """Places all objects by rejection sampling. The answers are not used, so positions do not reveal them."""
    while (result := _try_layout(rng)) is None:
        pass
    return result


def _try_layout(rng: np.random.Generator) -> Layout | None:
    placed: list[np.ndarray] = []  # [n,4] each

    def place(shape, away=None):
        """Moves `shape`, the rectangles `[n,4]` of one object, to the first of `TRIES` random positions where it fits, if any."""
        extent = (shape[:, :2] + shape[:, 2:]).max(0)
        moved = np.repeat(shape[None], TRIES, 0)  # [TRIES,n,4]
        moved[:, :, :2] += rng.integers(0, SIZE - extent + 1, (TRIES, 1, 2))
        fits = np.ones(TRIES, bool)
        if placed:
            fits = (gaps(moved[:, :, None], np.concatenate(placed)) >= GAP).all((1, 2))
        if away is not None:
            fits &= (gaps(moved, away) > BEACON_DISTANCE).all(1)
        if not fits.any():
            return None
        placed.append(moved[fits.argmax()])
        return placed[-1]

    beacon = place(_square(BEACON))
    objects = [(_square(side), beacon) for side in rng.integers(TISSUE[0], TISSUE[1] + 1, 2)]
    wall = np.array([[0, 0, WALL_LENGTH, WALL_WIDTH]])
    objects += [(_maybe_transposed(rng, wall), None), *((_strip_and_block(rng), None) for _ in range(2))]
    objects += [(_square(BLOCK), None)] * 2
    rectangles = []
    for shape, away in objects:
        if (position := place(shape, away)) is None:
            return None
        rectangles.append(position)
    tissue, (wall, *pairs), blobs = rectangles[:2], rectangles[2:5], rectangles[5:]
    strips, blocks = np.stack(pairs, 1)
    return Layout(beacon, np.concatenate(tissue), wall, strips, blocks, np.concatenate(blobs))


def _square(side) -> np.ndarray:
    return np.array([[0, 0, side, side]])


def _strip_and_block(rng: np.random.Generator) -> np.ndarray:
    """`[2,4]`: a strip and the block at one of its ends, in any of the four directions, at a random offset along the block's side."""
    offset = rng.integers(0, BLOCK - STRIP_WIDTH + 1)
    strip, block = (BLOCK, offset, STRIP_LENGTH, STRIP_WIDTH), (0, 0, BLOCK, BLOCK)
    if rng.integers(2):
        strip, block = (0, offset, STRIP_LENGTH, STRIP_WIDTH), (STRIP_LENGTH, 0, BLOCK, BLOCK)
    pair = np.array([strip, block])
    return _maybe_transposed(rng, pair)


def _maybe_transposed(rng: np.random.Generator, shape: np.ndarray) -> np.ndarray:
    """`shape` unchanged, or with rows and columns exchanged, with equal probability."""
    return shape[:, [1, 0, 3, 2]] if rng.integers(2) else shape


@functools.cache
def photographs() -> dict[str, np.ndarray | list[np.ndarray]]:
    """The photographs that scenes are cut from, uint8 `[H,W,3]`; `background` is a list. Nothing is downloaded."""
    from skimage import data  # imported here, as only building the data set needs it

    def reduce(image, factor, tint=(1, 1, 1)):
        """Averages `factor`×`factor` pixels. `tint` colours grey photographs, so that they are easy to tell apart."""
        image = image[..., None] if image.ndim == 2 else image
        h, w = (n // factor for n in image.shape[:2])
        image = image[: h * factor, : w * factor].reshape(h, factor, w, factor, -1).mean((1, 3)) * tint
        return np.clip(image, 0, 255).astype(np.uint8)

    return {
        "background": [
            reduce(image, 2)
            for image in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.stereo_motorcycle()[0])
        ],
        "grass": reduce(data.grass(), 2, (0.8, 1.25, 0.5)),
        "gravel": reduce(data.gravel(), 2, (1.15, 1.05, 0.9)),
        "retina": reduce(data.retina()[350:-350, 350:-350], 4),  # without the black border
        "galaxies": reduce(data.hubble_deep_field(), 2),
        "tissue": reduce(data.immunohistochemistry()[:240, :260], 2, (0.8, 0.8, 1.6)),  # the stained part
        "brick": reduce(data.brick(), 3, (1.3, 0.85, 0.7)),
        "text": reduce(data.page()[48:122, 5:-5], 2, (1.1, 1.1, 0.9)),  # four full lines
    }


def answers_of(index: int) -> Answers:
    """The answers of a scene, the bits of its index: they are independent, and each occurs as often as its opposite."""
    return Answers(index & 1, index >> 1 & 1, index >> 2 & 1)


def scene(seed: int, split: str, index: int, answers: Answers | None = None) -> tuple[np.ndarray, np.ndarray]:
    """One scene; the same arguments give the same bytes.

    Args:
        seed: of the whole data set.
        split: `"train"` or `"val"`.
        index: of the scene in its split.
        answers: other answers for the same scene; by default `answers_of` its index.

    Returns:
        image uint8 `[128,128,3]` and label uint8 `[128,128]`, indices into `CLASS_NAMES`.
    """
    answers = answers or answers_of(index)
    rng = np.random.default_rng(np.random.SeedSequence([seed, list(SPLITS).index(split), index]))
    positions = layout(rng)
    photos = photographs()
    image = random_crop(rng, photos["background"][rng.integers(len(photos["background"]))], SIZE, SIZE)
    image = np.ascontiguousarray(image[:, ::-1] if rng.integers(2) else image)
    label = np.zeros((SIZE, SIZE), np.uint8)
    backdrop = image.copy()

    def paint(rectangle, texture, name, turn=False):
        y, x, h, w = rectangle
        crop = random_crop(rng, texture, w, h).swapaxes(0, 1) if turn else random_crop(rng, texture, h, w)
        image[y : y + h, x : x + w] = crop
        label[y : y + h, x : x + w] = CLASS_NAMES.index(name)

    # The draws from `rng` must not depend on the answers: `random_crop` draws the same numbers for any texture.
    beacon = BEACONS[answers.beacon]
    paint(positions.beacon[0], photos[beacon], beacon)
    for square in positions.tissue:
        paint(square, photos["tissue"], f"tissue with {beacon}")
    for i, blob_texture in enumerate(BLOCKS):
        texture = BLOCKS[answers.block ^ i]
        paint(positions.blocks[i], photos[texture], texture)
        paint(positions.strips[i], photos["text"], f"text at {texture}", turn=positions.strips[i][2] == STRIP_LENGTH)
        paint(positions.blobs[i], photos[blob_texture], blob_texture)
    paint(positions.wall[0], photos["brick"], WALLS[answers.extent])
    if not answers.extent:
        y, x, h, w = positions.wall[0]
        middle = (WALL_LENGTH - WALL_CUT) // 2
        rows, columns = slice(y, y + h), slice(x, x + w)
        if h == WALL_LENGTH:
            rows = slice(y + middle, y + middle + WALL_CUT)
        else:
            columns = slice(x + middle, x + middle + WALL_CUT)
        image[rows, columns], label[rows, columns] = backdrop[rows, columns], 0
    return image, label


def random_crop(rng: np.random.Generator, texture: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 `[height,width,3]`: a random crop of `texture`, its brightness changed by up to 15 %."""
    h, w = texture.shape[:2]
    position, gain = rng.random(2), rng.uniform(0.85, 1.15)
    y, x = (position * (h - height + 1, w - width + 1)).astype(int)
    return np.clip(texture[y : y + height, x : x + width] * gain, 0, 255).astype(np.uint8)


def picture(rows: int = 2, columns: int = 3) -> np.ndarray:
    """A sheet of the first scenes of `val`, each at twice its size beside its label: uint8 `[H,W,3]`."""
    margin, panel = 4, 2 * SIZE
    cells = []
    for i in range(rows * columns):
        image, label = scene(0, "val", i)
        pair = np.stack([image, np.array(PALETTE, np.uint8)[label]]).repeat(2, 1).repeat(2, 2)
        cell = np.full((panel + 2 * margin, 2 * panel + 3 * margin, 3), 255, np.uint8)
        for j, left in enumerate((margin, panel + 2 * margin)):
            cell[margin : margin + panel, left : left + panel] = pair[j]
        cells.append(cell)
    return np.concatenate([np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)])


if __name__ == "__main__":
    from skimage.io import imsave

    parser = argparse.ArgumentParser(description="Draw a few scenes beside their labels.")
    parser.add_argument("path", help="PNG file to write")
    imsave(parser.parse_args().path, picture())
