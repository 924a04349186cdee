"""What a page knows of a run: what the files in its folder hold."""

import dataclasses
from collections.abc import Callable

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
    """What a work directory has; what is missing is empty.

    Attributes:
        anchor: its place on the page.
        name: its folder's, or its system's if it is the only one.
        colour: of its curves and bars.
        config: config.json.
        usual: the config of its file without overrides, {} if unknown.
        trained: what data it is trained on, see `workdir.read_dataset`.
        results: results.json.
        metrics: lines of metrics.jsonl.
        samples: {name: (image, label, prediction)} of samples.npz.
        images: names, and counts of each image, see `record.read_image_counts`; None without images.npz.
    """

    anchor: str
    name: str
    colour: str
    config: dict
    usual: dict
    trained: dict | None
    results: dict
    metrics: list
    samples: dict
    images: tuple | None

    @property
    def command(self) -> list[str]:
        """What makes the run: main.py and its arguments."""
        flags = [f"--config=configs/{self.config['system']}.py:{self.config['data']['name']}"]
        overrides = self.overrides.items()
        return [
            program.NAME,
            *flags,
            *(f"--config.{k}={tuple(v) if isinstance(v, list) else v}" for k, v in overrides),
        ]

    @property
    def tested(self) -> dict | None:
        """What data the scores are of, or before there are any, what the run is trained on, see `provenance.describe`; None if unknown."""
        return self.results.get("dataset") or self.trained

    @property
    def other_data(self) -> str | None:
        """The data that the scores are of, in words, where the run was not trained on them."""
        trained, tested = self.trained, self.tested
        return provenance.words(tested) if trained and tested and not provenance.same(trained, tested) else None

    @property
    def overrides(self) -> dict:
        """The fields that differ from `usual`, {} if that is unknown."""
        usual = flatten_as_json(self.usual)
        return {k: v for k, v in flatten_as_json(self.config).items() if k in usual and usual[k] != v}


def read(folder: epath.Path, index: int, count: int, usual: Callable | None) -> ReportedRun:
    """Of the `index`-th of `count` runs on a page; `usual` is that of `report.write_report`.

    Raises:
        UserError: the folder is none's, or one of its files does not hold what it should.
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
        raise UserError(f"{folder / 'config.json'} is damaged: it has no system, or no data.name") from e
    return ReportedRun(
        anchor=f"run{index}",
        name=system if count == 1 else resolved(folder).name,
        colour=style.run_style(index)[0],
        config=config,
        usual=(usual and usual(folder)) or {},
        trained=workdir.read_dataset(str(folder)),
        results=record.read(folder),
        metrics=read_metrics(folder),
        samples=record.read_samples(folder),
        images=record.read_image_counts(folder),
    )
