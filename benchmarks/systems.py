"""Trains several systems on one data set over several seeds and prints a table: mean and standard deviation of the scores, in %.

python benchmarks/systems.py --dataset=scenes --seeds=3 [fcn zigzag …] [-- --config.a.b=value …]

Without names, every system. Every run is `main.py` in a work directory of its own, so that this continues where it stopped; a finished
run of the same config is not run again. All systems have one seed before any has two. `step` is the shortest mean time of a step
over any logged interval of any of the runs: other programs on the machine make the others longer.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import main as command_line
from ctxseg import logs, workdir
from ctxseg.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
NOT_SYSTEMS = ("__init__", "datasets", "defaults")


def run(system: str, dataset: str, seed: int, folder: Path, overrides: list[str]) -> dict:
    """The results of one run, made now unless they are there; `step_seconds` is added.

    Raises:
        UserError: `folder` holds the run of another config.
    """
    arguments = [f"--config=configs/{system}.py:{dataset}", f"--config.seed={seed}", f"--workdir={folder}", *overrides]
    config = command_line.parse(["main.py", *arguments]).config
    results = folder / "results.json"
    if (folder / "config.json").exists():
        workdir.check_same(str(folder / "config.json"), config)
    finished = results.exists() and json.loads(results.read_text())
    if not finished or (finished["split"], finished["step"]) != (config.eval.split, config.train.steps):
        print(f"{system} on {dataset}, seed {seed}: {folder}", file=sys.stderr, flush=True)
        command = [sys.executable, "main.py", *arguments]
        # The programs of two seeds are the same: the second need not compile them.
        environment = {"JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled")} | os.environ
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    speeds = [e["images_per_second"] for e in logs.read_metrics(str(folder)) if e["kind"] == "train"]
    return json.loads(results.read_text()) | {"step_seconds": config.train.batch_size / max(speeds)}


def cell(values: list[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def row(system: str, results: list[dict]) -> dict[str, str]:
    """{column: cell} of a system, given the results of its seeds."""
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
    parser.add_argument("--runs", default=str(ROOT / "runs"), help="folder of the work directories")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, overrides = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    runs = Path(os.path.abspath(args.runs))
    results = {system: [] for system in args.systems}
    try:
        for seed in range(args.seeds):
            for system, of in results.items():
                of.append(run(system, args.dataset, seed, runs / f"{system}-{args.dataset}-{seed}", overrides))
    except UserError as e:
        sys.exit(f"error: {e}")
    rows = [row(system, of) for system, of in results.items()]
    print("|", " | ".join(rows[0]), "|")
    print("|---" * len(rows[0]) + "|")
    for cells in rows:
        print("|", " | ".join(cells.values()), "|")


if __name__ == "__main__":
    main()
