"""A run as a page shows it: the contents of the files in its folder."""

import dataclasses
from collections.abc import Callable, Mapping

from etils import epath

from ctxseg import program
from ctxseg.errors import UserError
from ctxseg.files import resolved
from ctxseg.runs import provenance, record, workdir
from ctxseg.runs.metrics_log import read_metrics
from ctxseg.settings.fields import flatten_as_json
from ctxseg.views import style


@dataclasses.dataclass(frozen=True)
class ReportedRun:
    """The contents of a work directory; the contents of missing files are empty.

    Attributes:
        folder: its folder.
        anchor: anchor on the page.
        name: name of its folder, or of its system if it is the only run.
        colour: colour of its curves and bars.
        config: config.json.
        base: the config of its file without overrides, {} if unknown.
        trained: the data that it was trained on, see `workdir.read_dataset`.
        results: results.json.
        metrics: lines of metrics.jsonl.
        samples: {name: (image, label, prediction)} of samples.npz, for semantic segmentation.
        worst: the same of the images with the lowest IoU.
        images: names and counts of the images, see `record.read_image_counts`; None without images.npz.
        pictures: pictures of samples.npz, see `record.read_pictures`, for instance segmentation.
    """

    folder: epath.Path
    anchor: str
    name: str
    colour: str
    config: dict
    base: dict
    trained: dict | None
    results: dict
    metrics: list
    samples: dict
    worst: dict
    images: tuple | None
    pictures: list

    @property
    def task(self) -> str:
        """`record.SEMANTIC` or `record.INSTANCES`."""
        return _task(self.config, self.results)

    @property
    def command(self) -> list[str]:
        """The command of the run: the program and its arguments."""
        flags = [f"--config=configs/{self.config['system']}.py:{self.config['data']['name']}"]
        overrides = self.overrides.items()
        return [
            program.NAME,
            *flags,
            *(f"--config.{k}={tuple(v) if isinstance(v, list) else v}" for k, v in overrides),
        ]

    @property
    def tested(self) -> dict | None:
        """The data of the scores, or without scores the training data, see `provenance.describe`; None if unknown."""
        return self.results.get("dataset") or self.trained

    @property
    def other_data(self) -> str | None:
        """The data of the scores, in words, if the run was not trained on it; else None."""
        trained, tested = self.trained, self.tested
        return provenance.words(tested) if trained and tested and not provenance.same(trained, tested) else None

    @property
    def overrides(self) -> dict:
        """The fields that differ from `base`, {} if that is unknown."""
        base = flatten_as_json(self.base)
        return {k: v for k, v in flatten_as_json(self.config).items() if k in base and base[k] != v}


def read(folder: epath.Path, index: int, count: int, read_base: Callable | None) -> ReportedRun:
    """Reads the `index`-th of `count` runs on a page. For `read_base`, see `report.write_report`.

    Raises:
        UserError: the folder has no run, or one of its files is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"--workdir={folder} is not a folder")
    config = record.read_object(folder / "config.json")
    if not config:
        raise UserError(f"{folder / 'config.json'} is missing: --workdir is not the folder of a run")
    try:
        system, data = config["system"], config["data"]["name"]
        if not isinstance(system, str) or not isinstance(data, str):
            raise TypeError
    except (KeyError, TypeError) as e:
        raise UserError(f"{folder / 'config.json'} is damaged: system or data.name is missing or not a text") from e
    results = record.read(folder)
    semantic = _task(config, results) == record.SEMANTIC
    names = results.get("class_names")
    return ReportedRun(
        folder=folder,
        anchor=f"run{index}",
        name=system if count == 1 else resolved(folder).name,
        colour=style.run_style(index)[0],
        config=config,
        base=(read_base and read_base(folder)) or {},
        trained=workdir.read_dataset(str(folder)),
        results=results,
        metrics=read_metrics(folder),
        samples=record.read_samples(folder) if semantic else {},
        worst=record.read_samples(folder, record.WORST) if semantic else {},
        images=record.read_image_counts(folder) if semantic else None,
        pictures=[] if semantic or not names else record.read_pictures(folder, len(names)),
    )


def _task(config, results):
    """The task of a run: that of its results, or of its network. Runs from before there were detectors have none in their config."""
    if "task" in results:
        return results["task"]
    model = config.get("model")
    detector = model.get("detector") if isinstance(model, Mapping) else None
    name = detector.get("name", "none") if isinstance(detector, Mapping) else "none"
    return record.SEMANTIC if name == "none" else record.INSTANCES
