"""Trains several systems on one data set over several seeds and prints a table: mean and standard deviation of the scores.

python benchmarks/systems.py --dataset=scenes --seeds=3 fcn zigzag [-- --config.a.b=value …]

Every run is `main.py` in a work directory of its own, so that this continues where it stopped; a finished run is not run again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(system: str, dataset: str, seed: int, folder: Path, overrides: list[str]) -> dict:
    """The results of one run, made now unless they are there."""
    if not (folder / "results.json").exists():
        command = [sys.executable, "main.py", f"--config=configs/{system}.py:{dataset}", f"--config.seed={seed}"]
        print(f"{system} on {dataset}, seed {seed}: {folder}", file=sys.stderr, flush=True)
        subprocess.run([*command, f"--workdir={folder}", *overrides], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return json.loads((folder / "results.json").read_text())


def cell(values: list[float], scale: float = 100) -> str:
    spread = f" ± {scale * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{scale * statistics.mean(values):.1f}{spread}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("systems", nargs="+", help="names of config files")
    parser.add_argument("--dataset", default="scenes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", default=str(ROOT / "runs"), help="folder of the work directories")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, overrides = parser.parse_args(sys.argv[1:end]), sys.argv[end + 1 :]
    rows = []
    for system in args.systems:
        folders = [Path(args.runs) / f"{system}-{args.dataset}-{seed}" for seed in range(args.seeds)]
        results = [
            run(system, args.dataset, seed, Path(os.path.abspath(folder)), overrides)
            for seed, folder in enumerate(folders)
        ]
        scores = {"mIoU": [r["mIoU"] for r in results], "pixel accuracy": [r["pixel_accuracy"] for r in results]}
        scores |= {group: [r["group_iou"][group] for r in results] for group in results[0]["group_iou"]}
        context = [
            statistics.mean(v for k, v in r["group_iou"].items() if k != "appearance")
            for r in results
            if r["group_iou"]
        ]
        scores |= {"context groups": context} if context else {}
        rows.append([system, *map(cell, scores.values()), f"{results[0]['parameters'] / 1e6:.2f} M",
                     f"{statistics.mean(r['seconds'] for r in results):.0f} s"])  # fmt: skip
    print("| system |", " | ".join(scores), "| parameters | time |")
    print("|---" * (len(rows[0])) + "|")
    for row in rows:
        print("|", " | ".join(row), "|")


if __name__ == "__main__":
    main()
