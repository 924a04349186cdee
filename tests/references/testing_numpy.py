"""Testing over scales, mirror images and windows in NumPy, one image at a time (SPEC §8): a slow reference for tests.

`scores(image [h,w,3]) → [h',w',K]` is a network's scores of an image, at its own resolution. Nothing is padded.
"""

import numpy as np


def bilinear(x, height, width):
    """x [h,w,C] → [height,width,C] by two taps an axis, pixel centres at +½, edges repeated, no smoothing."""
    for axis, n in ((0, height), (1, width)):
        m = x.shape[axis]
        rows = []
        for i in range(n):
            u = min(max((i + 0.5) * m / n - 0.5, 0.0), m - 1.0)
            low = int(u)
            high = min(low + 1, m - 1)
            rows.append((1 - (u - low)) * x.take(low, axis) + (u - low) * x.take(high, axis))
        x = np.stack(rows, axis)
    return x


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def starts(length, window, share):
    """Where windows of an axis begin: at multiples of the stride, until one reaches the end; that one ends there."""
    window = min(window, length)
    stride = share if share > 1 else max(round(window * share), 1)  # above 1: pixels
    positions = [0]
    while positions[-1] + window < length:
        positions.append(min(positions[-1] + stride, length - window))
    return window, positions


def probabilities(scores, image, scales=(1.0,), flip=False, size=(), window=(), stride=2 / 3):
    """Mean over scales and mirror images of the class probabilities at the image's size: image [h,w,3] → [h,w,K]."""
    height, width = image.shape[:2]
    if len(size) == 1:  # the shorter side's
        size = [int(n * size[0] / min(height, width) + 0.5) for n in (height, width)]
    total, count = 0.0, 0
    for scale in scales:
        base = size or (height, width)
        target = [max(round(n * scale), 1) for n in base]
        for mirrored in (False, True) if flip else (False,):
            view = np.asarray(image, np.float64)
            view = view[:, ::-1] if mirrored else view
            view = bilinear(view, *target)
            if window:
                p, covered = 0.0, np.zeros((*target, 1))
                (wh, ys), (ww, xs) = (starts(n, m, stride) for n, m in zip(target, window, strict=True))
                for y in ys:
                    for x in xs:
                        part = np.zeros((*target, scores(view[y : y + wh, x : x + ww]).shape[-1]))
                        part[y : y + wh, x : x + ww] = softmax(
                            bilinear(np.asarray(scores(view[y : y + wh, x : x + ww]), np.float64), wh, ww)
                        )
                        p = p + part
                        covered[y : y + wh, x : x + ww] += 1
                p = bilinear(p / covered, height, width)
            else:
                p = softmax(bilinear(np.asarray(scores(view), np.float64), height, width))
            total, count = total + (p[:, ::-1] if mirrored else p), count + 1
    return total / count
