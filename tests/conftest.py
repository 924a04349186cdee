import jax
import numpy as np
import pytest
from PIL import Image

from ctxseg.data.builders import camvid


@pytest.fixture(scope="session")
def street(tmp_path_factory):
    """A folder in CamVid's layout: 6 training and 3 validation images of 32×32, the class in the colour of each quarter."""
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
def cache(tmp_path_factory):
    """Where prepared data sets are kept."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Keeps compiled programs on disk: a second run of the same one, in this process or another, does not compile it again."""
    folder = tmp_path_factory.mktemp("compiled")
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield {name.upper(): str(value) for name, value in settings.items()}
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def tiny(street, cache, tmp_path):
    """Arguments of a run that takes seconds: `main.main([*tiny, …])`."""
    return [
        "main.py",
        "--config=configs/fcn.py:camvid",
        f"--workdir={tmp_path / 'run'}",
        f"--config.data.manual_dir={street}",
        f"--config.data.data_dir={cache}",
        "--config.data.crop=32,32",
        "--config.data.threads=0",
        "--config.model.backbone.width=4",
        "--config.train.steps=4",
        "--config.train.batch_size=4",
        "--config.eval.batch_size=4",
    ]
