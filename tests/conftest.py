import gc
import os
import tempfile
from importlib import metadata

# Everything here is compiled to be run once or twice. Read when the first array is made. The second flag more than halves the time of
# compiling, and XLA dies of flags that it does not know: it is this release's.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + (" --xla_cpu_use_fusion_emitters=false" if metadata.version("jax").startswith("0.10.") else ""),
)

# All processes of a session, those of pytest and those that tests start, share the programs that they compile. The first process makes
# the folder, empty, so that no earlier session's programs hide a fault.
if "PYTEST_XDIST_WORKER" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory()
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import typing
from unittest import mock

import beartype  # noqa: F401  (before the patch below)
import jaxtyping
import numpy as np
import pytest
from PIL import Image

from ctxseg.data.builders import camvid

# In all tests, arrays of the shapes that annotations say, or jaxtyping.TypeCheckError; not in processes that tests start, and not in
# `layers`, `resizing`, `attention` and `extent`, which everything calls (a tenth more time), and `scales`, which is tested on a
# stand-in. A whole number is a float, as mypy has it.
jaxtyping.install_import_hook(
    ["ctxseg.models.backbones", "ctxseg.models.context", "ctxseg.models.memory", "ctxseg.models.classifier", "ctxseg.models.auxiliary",
     "ctxseg.models.segmenter", "ctxseg.training.losses", "ctxseg.training.step", "ctxseg.inference.probabilities",
     "ctxseg.inference.crf", "ctxseg.evaluation.metrics"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)  # fmt: skip
with mock.patch.object(typing, "TYPE_CHECKING", True):  # under which alone this file has annotations that say something
    import ctxseg.inference.crf  # noqa: F401
from ctxseg.models import convolution, layers  # noqa: E402  (once the hook is there)


@pytest.fixture(scope="session")
def street(tmp_path_factory):
    """A folder in CamVid's layout: 6 training and 3 validation images of 32×32, a class in each quarter."""
    root, rng = tmp_path_factory.mktemp("street"), np.random.default_rng(0)
    palette = np.array([*camvid.CLASSES.values(), (0, 0, 0)], np.uint8)
    for split, count in (("train", 6), ("val", 3)):
        lines = []
        for name in (f"{split}{i}.png" for i in range(count)):
            label = np.kron(rng.integers(0, 12, (2, 2)), np.ones((16, 16))).astype(np.uint8)
            for folder, array in ((split, palette[label]), (f"{split}annot", label)):
                (root / folder).mkdir(exist_ok=True)
                Image.fromarray(array).save(root / folder / name)
            lines.append(f"/SegNet/CamVid/{split}/{name} /SegNet/CamVid/{split}annot/{name}\n")
        (root / f"{split}.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="session")
def tiny(street, tmp_path_factory):
    """Settings of a run that takes seconds: `main.main(["main.py", "--config=configs/SYSTEM.py:camvid", *tiny, …])`."""
    return [
        f"--config.data.manual_dir={street}",
        f"--config.data.data_dir={tmp_path_factory.mktemp('prepared')}",
        "--config.data.crop=32,32",
        "--config.data.threads=0",
        "--config.model.backbone.width=4",
        "--config.train.steps=4",
        "--config.train.batch_size=4",
        "--config.train.log_every=1",
        "--config.train.checkpoint_every=1",
        "--config.eval.batch_size=2",
        "--config.optimizer.warmup_steps=0",
    ]


@pytest.fixture(scope="module")
def plain_convolutions():
    """XLA's own convolution, which is traced and compiled several times faster; `test_layers.py` holds the package's to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "convolve", convolution._plain)
        for module in (layers, convolution):
            patch.setattr(module, "materialize", lambda x: x)
        yield


def pytest_collection_finish():
    """Tracing makes many objects, and the collector would look at all that were ever imported again and again: 6 % of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
