import gc
import os
import tempfile
from importlib import metadata

# Programs of the tests run only once or twice, so compilation has to be fast. XLA reads these flags when the first array is created. The
# second flag more than halves the compilation time. The third saves a tenth of it: programs in one part cost less in all than in parts that
# are compiled in parallel. These two are set for this release only, as XLA aborts if it does not know a flag.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0"
    + (
        " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        if metadata.version("jax").startswith("0.10.")
        else ""
    ),
)

# All processes of a session, also those that tests start, share the programs that they compile. The first process creates an empty folder,
# so that programs of an earlier session cannot hide a fault.
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

# In all tests, an array with another shape than its annotation raises jaxtyping.TypeCheckError. Exceptions: processes that tests start;
# `layers`, `resizing`, `attention` and `extent`, which everything calls (a tenth more time); and `scales`, which is tested on a stand-in.
# An int is accepted as a float, as in mypy.
jaxtyping.install_import_hook(
    ["ctxseg.models.backbones", "ctxseg.models.context", "ctxseg.models.memory", "ctxseg.models.classifier", "ctxseg.models.auxiliary",
     "ctxseg.models.segmenter", "ctxseg.training.losses", "ctxseg.training.pixel_losses", "ctxseg.training.step",
     "ctxseg.inference.probabilities", "ctxseg.inference.crf", "ctxseg.inference.lattice", "ctxseg.evaluation.metrics",
     "ctxseg.evaluation.boundaries", "ctxseg.evaluation.regions", "ctxseg.evaluation.calibration"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)  # fmt: skip
with mock.patch.object(typing, "TYPE_CHECKING", True):  # otherwise these files do not import jaxtyping
    import ctxseg.inference.crf  # noqa: F401
from ctxseg.models import convolution, layers  # noqa: E402  (after the hook is installed)


@pytest.fixture(scope="session")
def street(tmp_path_factory):
    """A folder in CamVid's layout: 6 training and 3 validation images of 32×32, each quarter with a random class."""
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
    """Flags of a run that takes seconds: `commands.main(["main.py", "--config=configs/SYSTEM.py:camvid", *tiny, …])`."""
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
    """XLA's convolution, which is traced and compiled several times faster. `test_layers.py` compares the package's with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "convolve", convolution._plain)
        for module in (layers, convolution):
            patch.setattr(module, "materialize", lambda x: x)
        yield


def pytest_collection_finish():
    """Keeps the garbage collector from scanning all imported objects again and again while JAX traces: 6 % of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
