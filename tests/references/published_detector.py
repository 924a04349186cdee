"""torchvision's Mask R-CNN with weights that are a function of each tensor's name and shape, see `published.py`.

`benchmarks/published_detection_whole.py` records what it computes in float64; ours gets the same weights from a file.
"""

import tempfile
from pathlib import Path

import numpy as np

from tests.references import published

RECORDED = Path(__file__).with_name("published_detector.npz")
SIZES = ((96, 128), (90, 122))  # one is padded, to the other
CLASSES = 90  # and the background
MASKS = 12  # of so many detections, the masks are recorded
# Fields of `config.model.detector` for torchvision's network.
FIELDS = {
    "name": "mask_rcnn",
    "anchor_rounding": True,
    "anchor_strides": "measured",
    "proposals_after": (2000, 1000),
    "roi_aligned": False,
    "padding": "seen",
}
# Factors of the weights that `published.values` gives: activations of unit scale, boxes near their anchors, certain classes.
GAINS = {f"backbone.fpn.layer_blocks.{i}.0.weight": 1 / 16 for i in range(4)} | {
    "rpn.head.cls_logits.weight": 2,
    "rpn.head.bbox_pred.weight": 1 / 4,
    "roi_heads.box_predictor.cls_score.weight": 3,
    "roi_heads.box_predictor.bbox_pred.weight": 2,
    "roi_heads.mask_predictor.mask_fcn_logits.weight": 6,
}


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of PyTorch with this name and shape.

    The kernels of the heads have mean 0, so that their results depend on where a region is, not only on what all regions have in common.
    """
    drawn = published.values(name, shape)
    if name.startswith(("rpn.", "roi_heads.")) and len(shape) > 1:
        drawn -= drawn.mean(tuple(range(1, len(shape))), keepdims=True)
    return drawn * np.float32(GAINS[name]) if name in GAINS else drawn


def load(names, shapes):
    """Our network, and its variables and the report from a file of weights; `names` and `shapes` are those of the published tensors."""
    import jax

    import ctxseg
    from ctxseg.configs import defaults
    from ctxseg.models import create_model

    config = defaults.get_config().model
    config.backbone.update({"name": "resnet50", "output_stride": 32})
    config.context.name = "fpn"
    config.detector.update(FIELDS)
    model = create_model(config, CLASSES)
    variables = jax.eval_shape(model.init, jax.random.PRNGKey(0), published.image((32, 32)))
    empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables)
    rows = (tuple(int(n) for n in row if n) for row in shapes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "detector.safetensors"
        published.write(file, dict(zip(map(str, names), rows, strict=True)), values=values)
        return model, *ctxseg.load_weights(model, empty, file)
