"""Draws what attention over scales weighs, of images of a run's validation split: image, truth, prediction, a weight map a scale.

python benchmarks/attention_maps.py runs/attention-scenes docs/attention.png [INDEX …]

A weight of 1 is white, 0 is black; the weights of a position add up to 1.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from ctxseg import checkpoints, data, evaluate, schedules
from ctxseg.figures import colourise
from ctxseg.models import create_model
from ctxseg.models.layers import resize
from ctxseg.state import create_state


def rows(folder: Path, indices: list[int]):
    """A row of pictures, uint8 `[H,W·(3 + scales),3]`, for each of the images; the images are of one size."""
    config = ConfigDict(json.loads((folder / "config.json").read_text()))
    builder = data.load(config.data.name, config.data.data_dir, config.data.manual_dir)
    metadata = builder.info.metadata
    model = create_model(config.model, len(metadata["class_names"]))
    optimizer = schedules.create_optimizer(config.optimizer, config.train.steps, tuple(config.model.frozen))
    with checkpoints.Checkpoints(str(folder / "checkpoints")) as saved:
        state, _ = saved.restore(create_state(model, optimizer, tuple(config.data.crop), config.seed))
    source = evaluate.split_source(builder, config.eval.split, config.data.superpixels)

    @jax.jit
    def run(image):
        output = model.apply(state.variables, image[None])
        size = image.shape[:2]
        return resize(output.logits, size)[0].argmax(-1), resize(output.scale_weights, size)[0]

    for index in indices:
        sample = source[index]
        prediction, weights = (np.asarray(x) for x in run(sample["image"]))
        maps = [np.repeat(np.uint8(255 * w)[..., None], 3, -1) for w in np.moveaxis(weights, -1, 0)]
        labels = [colourise(x, metadata["palette"]) for x in (sample["label"], prediction)]
        yield np.concatenate([sample["image"], *labels, *maps], axis=1)


if __name__ == "__main__":
    run_folder, out, *chosen = sys.argv[1:]
    picture = np.concatenate(list(rows(Path(run_folder), [int(i) for i in chosen] or [0])), axis=0)
    height, width = picture.shape[:2]
    Image.fromarray(picture).resize((2 * width, 2 * height), Image.NEAREST).quantize(128).save(out, optimize=True)
