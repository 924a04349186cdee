"""Semantic segmentation by context aggregation.

run = ctxseg.load("runs/zigzag-scenes")  # a run's folder, RUN/checkpoints/STEP, or an export
labels = run.predict(image)
"""

import importlib

# {name: its module}. Modules are imported on first use, because JAX takes seconds to import.
_MODULES = {
    "load": "ctxseg.inference.trained",
    "create_model": "ctxseg.models",
    "load_weights": "ctxseg.runs.pretrained",
    "UserError": "ctxseg.errors",
}
__all__ = ["load", "create_model", "load_weights", "UserError", "__version__"]
__version__ = "0.1.0"


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module 'ctxseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__():
    return __all__
