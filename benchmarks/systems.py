"""Trains several systems on one data set over several seeds and prints a table: mean and standard deviation of the scores, in %.

python benchmarks/systems.py --dataset=scenes --seeds=3 --jobs=2 [fcn zigzag …] [-- --config.a.b=value …]

Without names, every system. Each run is a `main.py` with its own work directory, so the same command resumes; a finished run of the same
config is not repeated. The first seed of all systems is run before the second. `step` is the shortest mean time of a step over the logged
intervals of all runs, since other programs on the machine make the other intervals longer; with `--jobs`, each run has its share of the
cores.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ctxseg.commands import command_line
from ctxseg.errors import UserError
from ctxseg.runs import metrics_log
from ctxseg.studies import sweep
from ctxseg.studies.execution import Run, execute

ROOT = Path(__file__).resolve().parents[1]
NOT_SYSTEMS = ("__init__", "datasets", "defaults")


def plan(systems: list[str], dataset: str, seeds: int, folder: Path, overrides: list[str]) -> dict[tuple, Run]:
    """The runs by system and seed, in the order of execution.

    Raises:
        UserError: an invalid config, or a folder that holds a run of another config.
    """
    runs = {}
    for seed in range(seeds):
        for system in systems:
            run_folder = str(folder / f"{system}-{dataset}-{seed}")
            arguments = (
                f"--config=configs/{system}.py:{dataset}", f"--config.seed={seed}", f"--workdir={run_folder}", *overrides
            )  # fmt: skip
            config = command_line.parse(["main.py", *arguments]).config
            runs[system, seed] = Run(f"{system}, seed {seed}", arguments, config, run_folder, "train")
    sweep.check_folders(list(runs.values()))
    return runs


def read(run: Run) -> dict:
    """The results of a finished run, and `step_seconds`."""
    results = json.loads((Path(run.folder) / "results.json").read_text())
    speeds = [e["images_per_second"] for e in metrics_log.read_metrics(run.folder) if e["kind"] == "train"]
    return results | {"step_seconds": run.config.train.batch_size / max(speeds)}


def cell(values: list[float]) -> str:
    """Mean and standard deviation over seeds, in %."""
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def row(system: str, results: list[dict]) -> dict[str, str]:
    """{column: cell} of a system, from the results of its seeds."""
    cells = {"system": system, "all classes": cell([r["mIoU"] for r in results])}
    cells |= {
        group.replace("_", " "): cell([r["group_iou"][group] for r in results]) for group in results[0]["group_iou"]
    }
    if results[0]["group_iou"]:
        context = [statistics.mean(v for k, v in r["group_iou"].items() if k != "appearance") for r in results]
        cells["mean of the last three"] = cell(context)
    else:
        cells |= {"pixel accuracy": cell([r["pixel_accuracy"] for r in results])}
        cells |= {"mean accuracy": cell([r["mean_accuracy"] for r in results])}
    cells["parameters"] = f"{results[0]['parameters'] / 1e6:.2f} M"
    cells["step"] = f"{1000 * min(r['step_seconds'] for r in results):.0f} ms"
    return cells


def main():
    systems = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem not in NOT_SYSTEMS)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("systems", nargs="*", default=systems, help="names of config files; default: all")
    parser.add_argument("--dataset", default="scenes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time; the cores are divided among them")
    parser.add_argument("--runs", default=str(ROOT / "runs"), help="folder of the work directories")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, overrides = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    folder = Path(os.path.abspath(args.runs))
    os.chdir(ROOT)  # the folder of `configs/`
    try:
        runs = plan(args.systems, args.dataset, args.seeds, folder, overrides)
        failed = execute(list(runs.values()), [sys.executable, "main.py"], args.jobs)
    except UserError as e:
        sys.exit(f"error: {e}")
    if failed:
        sys.exit(f"{len(failed)} of {len(runs)} runs failed; run the same command to repeat them")
    rows = [row(system, [read(runs[system, seed]) for seed in range(args.seeds)]) for system in args.systems]
    print("|", " | ".join(rows[0]), "|")
    print("|---" * len(rows[0]) + "|")
    for cells in rows:
        print("|", " | ".join(cells.values()), "|")


if __name__ == "__main__":
    main()
