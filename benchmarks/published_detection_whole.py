"""Compares our Mask R-CNN with torchvision's, by weights that need no file (`tests/references/published_detector.py`).

In an environment with the packages of `benchmarks/requirements-published.txt`:

python benchmarks/published_detection_whole.py

writes tests/references/published_detector.npz: what `maskrcnn_resnet50_fpn` computes in float64 for two small images: its proposals, and
the boxes, scores and labels of its detections and the 28×28 masks of some. tests/models/detectors/test_published.py compares ours with it.
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.references import published, published_detector


def main():
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    with torch.device("meta"):  # without initial values
        model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=published_detector.CLASSES + 1)
    model = model.eval().double()
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    filled = {key: torch.from_numpy(published_detector.values(key, shape)) for key, shape in shapes.items()}
    model.to_empty(device="cpu").load_state_dict(filled)
    # Constants that are not in the state.
    generator = model.rpn.anchor_generator
    generator.cell_anchors = [
        generator.generate_anchors(*pair) for pair in zip(generator.sizes, generator.aspect_ratios, strict=True)
    ]
    arrays = {"names": np.array(list(shapes)), "shapes": np.array([(*s, 0, 0, 0, 0)[:4] for s in shapes.values()])}
    kept = {}
    model.rpn.register_forward_hook(lambda _, inputs, y: kept.__setitem__("proposals", y[0][0]))
    model.roi_heads.register_forward_hook(lambda _, inputs, y: kept.update(y[0][0]))
    for size in published_detector.SIZES:
        start = time.time()
        model.transform.min_size, model.transform.max_size = (min(size),), max(size)  # images are not resized
        with torch.inference_mode():
            model([torch.from_numpy(published.image(size)[0]).permute(2, 0, 1).double() / 255])
        found = {key: tensor.numpy() for key, tensor in kept.items()}
        chosen = np.linspace(0, len(found["scores"]) - 1, published_detector.MASKS).astype(int)
        found |= {"masks": found["masks"][chosen, 0], "chosen": chosen, "labels": found["labels"].astype(np.int32)}
        scores, masks = found["scores"], found["masks"]
        print(
            f"{size}: {time.time() - start:.0f} s, {len(found['proposals'])} proposals, {len(scores)} detections of "
            f"{len(set(found['labels'].tolist()))} classes, scores {scores.max():.3f} to {scores.min():.3f}, masks {masks.mean():.3f} ± "
            f"{masks.std():.3f}"
        )
        for key, array in found.items():
            arrays[f"{size[0]}x{size[1]}/{key}"] = array.astype(np.float32) if array.dtype == np.float64 else array
    np.savez_compressed(published_detector.RECORDED, **arrays)
    print(f"{published_detector.RECORDED}: {published_detector.RECORDED.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
