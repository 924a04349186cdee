"""The fields that belong to no module: what values they may have. `configs/defaults.py` says what they mean."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from ctxseg.bounds import Amount, Bound, Count, Factor, Portion, Whole, check

FIELDS: dict[str, dict[str, Any]] = {
    "": {"seed": Annotated[int, Bound(least=0, below=2**32)]},
    "model": {"kernel_std": Amount},
    "loss": {"auxiliary": Amount, "heads": Amount, "memory": Amount, "scales": Amount},
    "data": {"threads": Annotated[int, Bound(least=0, most=1000)]},
    "train": {
        "steps": Annotated[int, Bound(least=1, most=2**31 - 1)],  # counted in 32 bits
        "batch_size": Count,
        "log_every": Whole,
        "eval_every": Whole,
        "checkpoint_every": Whole,
        "keep": Count,
    },
    "optimizer": {
        "learning_rate": Amount,
        "momentum": Portion,
        "weight_decay": Amount,
        "clip_norm": Amount,
        "schedule": Literal["poly", "step", "constant"],
        "warmup_steps": Whole,
        "poly_power": Amount,
        "step_factor": Amount,
    },
    "eval": {
        "batch_size": Count,
        "samples": Whole,
        "scales": Sequence[Factor],
        "superpixels": Literal["image", "scale", "scale_by_area"],
        "score": Literal["original", "resized"],
        "stride": Annotated[float, Bound(above=0, most=1)],
        "crf_images": Count,
        "max_pixels": Count,
        "shapes": Literal["buckets", "exact"],
    },
    "eval.crf": {
        "iterations": Whole,
        "spatial_weight": Amount,
        "spatial_sigma": Annotated[float, Bound(least=0.1)],
        "bilateral_weight": Amount,
        "bilateral_sigma": Annotated[float, Bound(least=0.1)],
        "colour_sigma": Annotated[float, Bound(least=0.1)],
    },
    "complexity": {"channels": Count, "repeats": Whole},
}


def check_section(path: str, section) -> None:
    """Holds the fields of a section, `optimizer` say, to what they may be. UserError for the first that is not."""
    for name, kind in FIELDS[path].items():
        check(f"{path}.{name}" if path else name, section[name], kind)


def check_all(config) -> None:
    """`check_section` of all sections of a config."""
    for path in FIELDS:
        section = config
        for key in filter(None, path.split(".")):
            section = section[key]
        check_section(path, section)
