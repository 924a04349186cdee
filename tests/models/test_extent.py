"""A padded image gets the same scores as alone, in every network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctxseg.configs import defaults
from ctxseg.models import CONTEXTS, create_model, extent
from ctxseg.models.resizing import resize
from tests.models.test_pairs import HRNET, RESNEST, SMALL

# Image sizes of a batch. The second image is tested: it is neither first nor last, and neither the largest nor the smallest.
SIZES = [(40, 40), (33, 52), (28, 64)]
SHAPE = (64, 96)
pytestmark = pytest.mark.usefixtures("plain_convolutions")


def images_and_regions():
    """The second image of `SIZES` and its regions, and all images and regions in one batch with random padding."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (1, *size, 3)).astype(np.float32) for size in SIZES]
    regions = [np.kron(np.arange(9).reshape(3, 3), np.ones((14, 22), int))[None, :h, :w] for h, w in SIZES]
    batch = rng.uniform(0, 255, (len(SIZES), *SHAPE, 3)).astype(np.float32)
    ids = np.full((len(SIZES), *SHAPE), -1)
    for i, (h, w) in enumerate(SIZES):
        batch[i, :h, :w], ids[i, :h, :w] = images[i][0], regions[i][0]
    return images[1], regions[1], batch, ids


TRANSFORMER = {"width": 8, "heads": 2, "depth": 4, "grid": 3, "layers": (0, 1, 2, 3)}
LEVELS = ("res2", "res3", "res4", "res5")
CASES = {f"{name}": {"context": {"name": name}} for name in CONTEXTS}
CASES |= {
    f"zigzag, region_context={name}": {"context": {"name": "zigzag", "region_context": name}}
    for name in ("gcn", "global_subregion")
}
CASES |= {
    f"zigzag, bring={bring}": {
        "backbone": {"name": "resnet18", "output_stride": 32},
        "context": {"name": "zigzag", "bring": bring, "readout": "up", "stages": 1},
    }
    for bring in ("average", "strided")
}
CASES |= {
    "msci without super-pixels": {"context": {"name": "msci", "superpixels": False}},
    "msci on a grid": {"context": {"name": "msci", "region_shape": "grid", "regions": 9}},
    "connections": {"connections": {"name": "msci", "channels": 4, "stages": 1, "regions": 16}, "context": {"name": "ppm"}},
    "renet on patches": {"backbone": {"name": "none"}, "context": {"name": "renet", "patch": (4, 4), "entering": "l2"}},
    "renet on several maps": {"context": {"name": "renet", "levels": ("res3", "res5"), "entering": "l2"}},
    "msci on resnet": {"backbone": {"name": "resnet18", "output_stride": 32}, "context": {"name": "msci"}},
    "deformable convolutions": {"backbone": {"deformable": (0, 1, 1, 1), "offset_groups": 2}, "context": {"name": "fpn"}},
    "vgg16, Caffe's poolings": {"backbone": {"name": "vgg16"}, "context": {"name": "msc"}},
    "vgg16, 2×2 poolings": {"backbone": {"name": "vgg16", "layout": "hrenet"}, "context": {"name": "renet"}},
    "memory": {"context": {"name": "ppm"}, "memory": {"name": "mcibi"}},
    "resnest": {"backbone": RESNEST | {"output_stride": 16}, "context": {"name": "fpn"}},
    "hrnet": {"backbone": HRNET},
    "hrnet, nearest": {"backbone": HRNET | {"upsampling": "nearest"}, "context": {"name": "encoder_decoder"}},
    "vit": {"backbone": {"name": "vit_tiny_16"} | TRANSFORMER, "context": {"name": "ppm"}},
    "vit, levels": {"backbone": {"name": "vit_tiny_16"} | TRANSFORMER, "context": {"name": "fpn", "levels": LEVELS}},
    "dinov2": {"backbone": {"name": "dinov2_small_14", "registers": 2} | TRANSFORMER, "context": {"name": "ppm"}},
    "dinov2, levels": {
        "backbone": {"name": "dinov2_small_14"} | TRANSFORMER, "context": {"name": "fpn", "levels": LEVELS}
    },
    "dinov2, attention over scales": {
        "backbone": {"name": "dinov2_small_14"} | TRANSFORMER, "scales": {"merge": "attention"}, "context": {"name": "aspp"}
    },
    "attention over scales": {"scales": {"merge": "attention"}, "context": {"name": "msci"}},
    "scales beyond the image": {"scales": {"merge": "attention", "scales": (1.0, 1.5, 0.6), "head_input": "res3"}},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_padding_does_not_change_the_scores(case):
    config = defaults.get_config()
    config.model.backbone.width = 4
    config.model.context.update(SMALL)
    config.model.memory.channels = 4
    config.model.scales.head_filters = 3
    for section, fields in CASES[case].items():
        config.model[section].update(fields)
    model = create_model(config.model, 3)
    image, regions, batch, ids = images_and_regions()
    shapes = jax.eval_shape(model.init, jax.random.PRNGKey(0), image, regions)
    rng = np.random.default_rng(1)

    def draw(path, x):
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name in ("var", "scale"):
            return rng.uniform(0.5, 2, x.shape).astype(x.dtype)
        scale = np.sqrt(2 / np.prod(x.shape[:-1])) if name.endswith("kernel") else 0.5
        return (scale * rng.normal(size=x.shape)).astype(x.dtype)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)

    def logits(variables, images, regions, sizes=None):
        with extent.padded(sizes, images.shape[1:3]):
            output = model.apply(variables, images, regions)
            return resize(
                output.logits, images.shape[1:3], lengths=sizes is not None and (output.lengths, sizes.T) or None
            )

    padded = jax.jit(logits)(variables, batch, ids, jnp.asarray(SIZES))
    alone = jax.jit(logits)(variables, image, regions)[0]
    height, width = SIZES[1]
    scale = np.abs(alone).max()
    np.testing.assert_allclose(padded[1, :height, :width] / scale, alone / scale, atol=2e-5)
    assert alone.std() > 1e-3


def test_padding_ends_with_its_block():
    """Also when an exception leaves the block."""
    with pytest.raises(KeyError), extent.padded(jnp.ones((1, 2), int), (32, 32)):
        raise KeyError
    assert extent.lengths((4, 4)) is None
