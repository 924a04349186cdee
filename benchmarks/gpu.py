"""Speed and values of ctxseg on a GPU or TPU: a JSON file, and beside it the same figures as tables in Markdown.

python benchmarks/gpu.py --output=gpu.json [--only=steps,attention,renet,crf,tests]

It needs jax (0.10 to 0.12), flax, optax and numpy. If ml_collections, jaxtyping and PyTorch are installed, they are used. No data set is
read. Leave JAX_PLATFORMS unset: operations are counted on the CPU, and values are compared with its own. The parts, each of at most
`--minutes`:

ceilings   a matrix product and a copy; always measured, because other parts show shares of them
steps      a training step of every system with its paper's crop and backbone, in bfloat16 and float32: images/s, share of the ceiling, peak
           memory, compilation; and a ResNet-50 FCN, also in PyTorch
attention  MCIBI's dataset-level context aggregation against ASPP on [1,128,128,2048]; in the paper it takes 0.47 of ASPP's time
renet      the recurrence of ReNet in several forms
crf        DenseCRF
tests      values and gradients of every module against those of the CPU

Results are stored one by one. The same command continues: it measures only what the file does not have. Where an entry failed, the file
has its error, and `--again` measures it again. An entry that still runs when the time of its part is over is stopped, and is the last one
in the next run.
"""

import argparse
import json
import signal
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gpu_parts import NAMES, part, schedule, stand_ins, table, worker


def main(arguments: list[str] | None = None) -> int | None:
    options = parse(arguments)
    stand_ins.install()
    if options.worker:
        return worker.serve()
    if options.list:
        for name in options.only:
            print(f"{name}: {', '.join(part(name).entries())}")
        return None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the process that measures too
    process = schedule.Worker([sys.executable, __file__, "--worker"])
    try:
        return measure(options, process)
    except KeyboardInterrupt:
        return 130
    finally:
        process.close()


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--only", default=",".join(NAMES), help="parts, separated by commas")
    parser.add_argument("--again", action="store_true", help="measure again what failed")
    parser.add_argument("--minutes", type=float, default=10.0, help="time limit of each part")
    parser.add_argument("--images", type=int, default=8, help="images per training step and device")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the script on a CPU")
    parser.add_argument("--list", action="store_true", help="print the parts and their entries")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(NAMES):
        parser.error(f"--only: {', '.join(sorted(unknown))}; expected any of {', '.join(NAMES)}")
    options.only = [name for name in NAMES if name in chosen or name == "ceilings"]
    return options


def measure(options, process) -> int | None:
    """Measures the chosen parts and writes both files. Returns 2 if JAX does not start, or if the file belongs to another device."""
    results, device = schedule.read(options.output), None

    def ask(name, entry, images, seconds):
        if part(name).FRESH:
            process.close()
        return process.ask({"part": name, "entry": entry, "tiny": options.tiny, "images": images}, seconds)

    for name in options.only:
        stored = results["parts"].setdefault(name, {})
        entries = schedule.due(part(name).entries(), stored, options.again)
        if entries and device is None:
            device = process.ask({"part": "device", "tiny": options.tiny}, 60 * options.minutes)
            if "device" not in device:
                return fail(f"JAX does not start: {device.get('error', 'no answer')}")
            device["tiny"] = options.tiny
            commits = dict.fromkeys(filter(None, [*results.pop("commit", "").split(", "), device.pop("commit")]))
            if others := [key for key in device if key in results and results[key] != device[key]]:
                differences = ", ".join(f"{key} {results[key]}, not {device[key]}" for key in others)
                return fail(f"{options.output} has figures of {differences}; choose another --output")
            results = device | {"commit": ", ".join(commits)} | results  # the figures may be of several commits
            print(json.dumps(device), flush=True)
        for entry, result in schedule.run(entries, partial(ask, name), options.images, 60 * options.minutes):
            stored[entry] = result
            write(options.output, results)
            print(f"{name}, {entry}: {', '.join(table.outcome(name, entry, result, results['parts']))}", flush=True)
        process.close()
        if missing := schedule.missing(part(name).entries(), stored):
            print(f"{name}: not reached: {', '.join(missing)}; the same command continues", flush=True)
    print(f"{options.output}, {write(options.output, results)}")
    return None


def write(path: Path, results: dict) -> Path:
    """Writes the JSON file, and the tables beside it. Returns the path of the tables."""
    page = path.with_suffix(".md")
    schedule.write(path, json.dumps(results, indent=1))
    schedule.write(page, table.markdown(results))
    return page


def fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
