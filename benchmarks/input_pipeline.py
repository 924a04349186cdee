"""Images per second of the input pipeline, compared with a PyTorch DataLoader that does the same work, and its memory.

pip install -r requirements.txt -r benchmarks/requirements.txt
python benchmarks/input_pipeline.py

The images are made from photographs in scikit-image: 500×375 JPEGs like VOC's, flipped, scaled, rotated and cropped to 473×473; and
2048×1024 PNGs like Cityscapes', flipped, scaled, cropped to 512×1024 and colour-jittered; with labels, and optionally 1000 super-pixels.
They are prepared like a user's folder; all files are in the page cache after the first epoch.

PyTorch reads the same files with the faster of OpenCV and Pillow, then resizes, rotates, crops, flips and jitters, in this order and with
OpenCV, as MMSegmentation does, in one worker process per core; ctxseg has one thread per core. The two alternate within one process, each
once the other is idle; batches that were ready before a measurement are not counted. Figures are medians over rounds, ratios are medians
over adjacent pairs. A core-second is one second of CPU time, over all threads and processes; it is comparable on a shared machine.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import psutil
import torch
from PIL import Image
from skimage import data as photographs
from skimage import segmentation

from ctxseg import data
from ctxseg.data import pipeline, transforms
from ctxseg.data.builders.records import PNG_OF_IDS

SEGMENTS = 1000
LENGTH = 2975  # images of an epoch, as in Cityscapes
CASES = {
    "VOC-like": SimpleNamespace(
        size=(375, 500),
        suffix=".jpg",
        batch=16,
        augmentation=transforms.Augmentation(crop=(473, 473), flip=True, scale_range=(0.5, 2.0), rotate=10.0),
    ),
    "Cityscapes-like": SimpleNamespace(
        size=(1024, 2048),
        suffix=".png",
        batch=8,
        augmentation=transforms.Augmentation(
            crop=(512, 1024), flip=True, scale_range=(0.5, 2.0), brightness=0.4, contrast=0.4, saturation=0.3, hue=0.05
        ),
    ),
}


def write_folder(folder: Path, case, count: int) -> None:
    """Writes `count` training images and one validation image: mosaics of enlarged photographs, with labels of a few large regions."""
    rng = np.random.default_rng(0)
    photos = [
        getattr(photographs, name)() for name in ("astronaut", "coffee", "chelsea", "rocket", "hubble_deep_field")
    ]
    for i in range(count + 1):
        split, (height, width) = ("train" if i else "val"), case.size
        image = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, 512):
            for left in range(0, width, 512):
                tile = image[top : top + 512, left : left + 512]
                photo = photos[rng.integers(len(photos))]
                y, x = (rng.integers(n - 256) for n in photo.shape[:2])
                enlarged = cv2.resize(photo[y : y + 256, x : x + 256], (512, 512), interpolation=cv2.INTER_CUBIC)
                noisy = enlarged + rng.normal(0, 1.5, enlarged.shape)  # like a sensor's noise
                tile[...] = noisy.round().clip(0, 255)[: tile.shape[0], : tile.shape[1]]
        regions = segmentation.slic(image[::4, ::4], n_segments=60, start_label=0)
        ids = rng.integers(0, 20, regions.max() + 1).astype(np.uint8)
        label = cv2.resize(ids[regions], (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        for kind, array, suffix in (("images", image, case.suffix), ("labels", label, ".png")):
            path = folder / kind / split / f"{i:03d}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path, **({"quality": 95} if suffix == ".jpg" else {}))
    (folder / "classes.txt").write_text("".join(f"class{k}\n" for k in range(20)))


def write_regions(source, folder: Path) -> None:
    """Writes the super-pixels of a source as files for PyTorch."""
    folder.mkdir()
    for index in range(len(source)):
        sample = source[index]
        cv2.imwrite(str(folder / f"{Path(sample['name']).name}.png"), sample["regions"].astype(np.uint16), PNG_OF_IDS)


def read_opencv(path, flags):
    return cv2.imdecode(np.fromfile(path, np.uint8), flags)


def read_pillow(path, flags):
    with Image.open(path) as file:
        array = np.asarray(file.convert("RGB") if flags == cv2.IMREAD_COLOR_RGB else file)
    return array


class Epoch:
    """The samples of a source, repeated to `LENGTH`: Grain shuffles very short sources slowly."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        return self.source[index % len(self.source)]


class Samples(torch.utils.data.Dataset):
    """The transforms of MMSegmentation: files are read, resized, rotated, cropped, flipped, jittered and padded."""

    def __init__(self, folder: Path, case, with_regions: bool, read):
        self.images = sorted((folder / "images/train").iterdir())
        self.labels = sorted((folder / "labels/train").iterdir())
        self.regions = sorted((folder / "regions").iterdir()) if with_regions else None
        self.augmentation, self.read = case.augmentation, read

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        index %= len(self.images)
        rng, a = np.random.default_rng(torch.randint(2**31, ()).item()), self.augmentation
        maps = {"image": self.read(self.images[index], cv2.IMREAD_COLOR_RGB)}
        maps["label"] = self.read(self.labels[index], cv2.IMREAD_UNCHANGED)
        if self.regions:
            maps["regions"] = self.read(self.regions[index], cv2.IMREAD_UNCHANGED).astype(np.float32)
        scale, degrees = rng.uniform(*a.scale_range), rng.uniform(-a.rotate, a.rotate)
        height, width = (round(n * scale) for n in maps["label"].shape)
        for key, array in maps.items():
            linear = key == "image"
            array = cv2.resize(array, (width, height), interpolation=cv2.INTER_LINEAR if linear else cv2.INTER_NEAREST)
            if a.rotate:
                matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
                method = cv2.INTER_LINEAR if linear else cv2.INTER_NEAREST
                fill = transforms.PADDING[key]
                array = cv2.warpAffine(array, matrix, (width, height), flags=method, borderValue=fill)
            maps[key] = array
        top, left = (rng.integers(max(n - c, 0) + 1) for n, c in zip((height, width), a.crop, strict=True))
        mirrored = rng.random() < 0.5
        for key, array in maps.items():
            array = array[top : top + a.crop[0], left : left + a.crop[1]]
            if mirrored:
                array = cv2.flip(array, 1)
            if key == "image" and a.brightness:
                array = jitter(array, rng, a)
            missing = [c - n for n, c in zip(array.shape, a.crop, strict=False)]
            if any(missing):
                value = transforms.PADDING[key]
                array = cv2.copyMakeBorder(array, 0, missing[0], 0, missing[1], cv2.BORDER_CONSTANT, value=value)
            array = array.astype(np.int32) if key == "regions" else array
            maps[key] = torch.from_numpy(np.ascontiguousarray(array))
        return maps


def jitter(image, rng, a):
    """Jitters brightness and contrast by one factor, and saturation and hue in HSV."""
    image = cv2.convertScaleAbs(
        image,
        alpha=rng.uniform(1 - a.contrast, 1 + a.contrast) * rng.uniform(1 - a.brightness, 1 + a.brightness),
    )
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    steps = np.arange(256)
    shifted = ((steps + round(180 * rng.uniform(-a.hue, a.hue))) % 180).astype(np.uint8)
    saturated = (steps * rng.uniform(1 - a.saturation, 1 + a.saturation)).clip(0, 255).astype(np.uint8)
    hsv = cv2.merge([cv2.LUT(hue, shifted), cv2.LUT(saturation, saturated), value])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def endless(loader):
    while True:
        yield from loader


def cpu_seconds() -> float:
    """CPU time used by this process and its children."""
    process = psutil.Process()
    times = [p.cpu_times() for p in (process, *process.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def wait_until_idle() -> None:
    """Waits until the buffers of both pipelines are full and nothing computes any more."""
    before = cpu_seconds()
    for _ in range(600):
        time.sleep(0.25)
        if (now := cpu_seconds()) - before < 0.02:
            return
        before = now
    raise RuntimeError("the input pipelines do not become idle")


def measure(batches, ready: int, count: int) -> tuple[float, float]:
    """(wall-clock seconds, CPU seconds) per image: discards `ready` batches, then times `count`."""
    wait_until_idle()
    for _ in range(ready):
        next(batches)
    wall, cpu = time.perf_counter(), cpu_seconds()
    for _ in range(count):
        batch = next(batches)
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    images = count * len(batch["label"])
    return wall / images, cpu / images


def check_alike(ours, theirs, count: int = 12) -> None:
    """Asserts that batches have the same keys, shapes, dtypes and ids, and over `count` batches similar colours and shares of padding."""
    means, signatures = [], []
    for batches in (ours, theirs):
        drawn = [{key: np.asarray(value) for key, value in next(batches).items()} for _ in range(count)]
        means.append([np.mean([b["image"] for b in drawn]), 255 * np.mean([b["label"] == 255 for b in drawn])])
        assert set(np.unique([b["label"] for b in drawn])) <= {*range(20), 255}
        signatures.append({key: (value.shape, value.dtype) for key, value in drawn[0].items()})
    assert signatures[0] == signatures[1], signatures
    assert np.abs(np.subtract(*means)).max() < 20, means


def compare(name: str, folder: Path, builder, with_regions: bool, args) -> None:
    case, cores = CASES[name], args.threads
    source = pipeline.source(builder, "train", SEGMENTS if with_regions else 0)
    if with_regions and not (folder / "regions").exists():
        write_regions(source, folder / "regions")
    decoding_seconds = {}
    for read in (read_opencv, read_pillow):
        dataset = Samples(folder, case, with_regions, read)
        dataset[0]
        start = time.process_time()
        for index in range(4):
            dataset[index]
        decoding_seconds[read] = time.process_time() - start
    read = min(decoding_seconds, key=decoding_seconds.get)
    ours = pipeline.train_iterator(Epoch(source), case.augmentation, case.batch, 0, threads=cores)
    loader = torch.utils.data.DataLoader(
        Samples(folder, case, with_regions, read),
        case.batch,
        shuffle=True,
        drop_last=True,
        num_workers=cores,
        persistent_workers=True,
    )
    theirs = endless(loader)
    check_alike(ours, theirs)  # also warms up
    rounds = []
    for _ in range(args.rounds):
        a = measure(ours, 2 * cores, args.batches)
        b = measure(theirs, 2 * cores, args.batches)
        rounds.append((a, b))
    print(f"\n{name}, {case.size[1]}×{case.size[0]}{case.suffix}, {'with' if with_regions else 'without'} super-pixels")
    for side, label in enumerate(("ctxseg", f"PyTorch ({read.__name__.removeprefix('read_')})")):
        wall, cpu = (statistics.median(r[side][k] for r in rounds) for k in (0, 1))
        print(f"{label:17} {1 / wall:7.1f} images/s  {1 / wall / cores:6.1f} per core  {1 / cpu:6.1f} per core-second")
    wall, cpu = (statistics.median(b[k] / a[k] for a, b in rounds) for k in (0, 1))
    print(f"{'ratio':17} {wall:7.2f}           {wall:6.2f}           {cpu:6.2f}", flush=True)
    theirs.close()
    loader._iterator = None  # ends the workers
    if args.memory:
        process, memory = psutil.Process(), {}
        for i in range(1, args.memory + 1):
            next(ours)
            if i in (args.memory // 5, args.memory):
                memory[i] = process.memory_info().rss / 2**20
        print(
            "memory of this process after " + ", ".join(f"{i} batches {m:.0f} MiB" for i, m in memory.items()),
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--images", type=int, default=32, help="training images of a case")
    parser.add_argument("--batches", type=int, default=12, help="batches of a measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="threads of ctxseg, worker processes of PyTorch",
    )
    parser.add_argument(
        "--memory", type=int, default=0, help="print memory after this number of batches and after a fifth of it"
    )
    args = parser.parse_args()
    cv2.setNumThreads(0)
    for name in args.cases:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "folder"
            write_folder(folder, CASES[name], args.images)
            builder = data.load("folder", Path(scratch) / "prepared", folder)
            for with_regions in (False, True):
                compare(name, folder, builder, with_regions, args)


if __name__ == "__main__":
    main()
