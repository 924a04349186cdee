"""Checkpoints: the folder `checkpoints` of a run, and what --checkpoint says."""

import os
import shutil

from ctxseg.commands import command_line
from ctxseg.runs import checkpoints
from tests.damaged.bench import Input, Line


def evaluated(change, *flags):
    """The step that `--mode=evaluate` finds in a run whose checkpoints are changed so."""

    def read(bench, folder):
        run = bench.copy(folder)
        change(run / "checkpoints")
        values = command_line.parse(["main.py", "--mode=evaluate", f"--workdir={run}", *flags])
        _, state = checkpoints.restore_run(
            values.config, values.workdir, command_line.parse_checkpoint(values.checkpoint)[1]
        )
        return int(state.step)

    return read


def newest(change):
    """The step that `--mode=train` would continue from."""

    def read(bench, folder):
        run = bench.copy(folder)
        change(run / "checkpoints")
        with checkpoints.Checkpoints(str(run / "checkpoints")) as saved:
            return saved.latest_step()

    return read


def remove(name):
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def write(name, content):
    """A file with this content in place of whatever is there."""

    def change(folder):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return change


def cut(name, to=2):
    """A file, or the largest in a folder, cut to a part."""

    def change(folder):
        path = folder / name
        if path.is_dir():
            path = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // to])

    return change


def emptied(name):
    return lambda folder: [remove(name)(folder), (folder / name).mkdir()]


def everything_empty(folder):
    for path in (folder / "2").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def swapped(folder):
    """The files of one network under another's description: as of a copy that was mixed up."""
    for path in (folder / "2/state").rglob("*"):
        if path.is_file() and path.name not in ("_METADATA",):
            path.write_bytes(b"x" * path.stat().st_size)


NONE = "run/checkpoints has no checkpoint: train first"
READ = "run/checkpoints/2 cannot be read; if it is damaged, delete it"
CASES = {
    "no folder": (remove("."), Line(NONE)),
    "an empty folder": (emptied("."), Line(NONE)),
    "a file in place of the folder": (write(".", b"x"), Line(NONE)),
    "an empty step": (emptied("2"), Line(READ)),
    "a step without its state": (remove("2/state"), Line(READ)),
    "a step without its description": (remove("2/state/_METADATA"), Line(READ)),
    "a description cut off": (cut("2/state/_METADATA"), Line(READ)),
    "arrays cut off": (cut("2/state/d"), Line(READ)),
    "arrays gone": (remove("2/state/d"), Line(READ)),
    "arrays of other bytes": (swapped, Line(READ)),
    "all files empty": (everything_empty, Line(READ)),
    "no manifest": (remove("2/state/manifest.ocdbt"), Line(READ)),
    "the position of the data cut off": (cut("2/data/metadata"), Line(READ)),
    "a score cut off": (cut("2/metrics/metrics"), Line(READ)),
    "the file of the step's metadata cut off": (cut("2/_CHECKPOINT_METADATA"), 2),
    "an empty folder of a later step": (lambda f: (f / "3").mkdir(), Line("checkpoints/3 cannot be read; if it is damaged, delete")),
}  # fmt: skip
LISTED = {
    "a file in place of a step": (write("2", b"x"), 1),
    "a score that is a word": (write("2/metrics/metrics", b'{"mIoU": "x"}'), 2),
    "a score without mIoU": (write("2/metrics/metrics", b"{}"), 2),
    "not committed": (remove("2/commit_success.txt"), 2),
    "half-written": (lambda f: os.rename(f / "2", f / "2.orbax-checkpoint-tmp"), 1),
    "half-written, of an older version": (lambda f: os.rename(f / "2", f / "2.orbax-checkpoint-tmp-1700000000"), 1),
    "a step with letters": (lambda f: os.rename(f / "2", f / "2a"), 1),
    "a step with letters alone": (lambda f: [remove("1")(f), os.rename(f / "2", f / "two")], None),
    "a negative step": (lambda f: os.rename(f / "2", f / "-2"), 1),
    "a step with zeros": (lambda f: os.rename(f / "2", f / "0002"), 1),
    "a huge step": (lambda f: os.rename(f / "2", f / "99999999999999999999"), 10**20 - 1),
    "hidden files and notes": (lambda f: [(f / ".DS_Store").write_bytes(b"x"), (f / "notes.txt").write_text("x")], 2),
    "a link to nothing": (lambda f: os.symlink("nowhere", f / "3"), 2),
}  # fmt: skip
ASKED = {
    "3": Line("checkpoints has no checkpoint of step 3"),
    "99999999999999999999": Line("--checkpoint=9+: .*a step, best"),
    "-1": Line("--checkpoint=-1: .*a step, best"),
    "2.0": Line("--checkpoint=2.0: .*a step, best"),
    "": Line("--checkpoint=: .*a step, best"),
    "newest": Line("--checkpoint=newest: .*a step, best"),
    "²": Line("--checkpoint=²: .*a step, best"),
    "01": 1,
    "best": 1,
    "elsewhere/checkpoints/1": Line("--checkpoint=elsewhere/checkpoints/1 .*--workdir=.*run"),
}


def best(change):
    """The step of `--checkpoint=best` of a run whose metrics.jsonl is changed so."""
    return evaluated(lambda folder: change(folder.parent / "metrics.jsonl"), "--checkpoint=best")


WORD, NAN = (f'{{"step": 2, "kind": "eval", "mIoU": {value}}}\n' for value in ('"x"', "NaN"))
FIRST = Line("metrics.jsonl line 1 is damaged: delete that line")
BEST = {
    "no scores": (os.unlink, 1),
    "a score that is a word": (lambda path: path.write_text(WORD), FIRST),
    "a score that is NaN": (lambda path: path.write_text(NAN + path.read_text()), FIRST),
    "a line cut off": (lambda path: path.write_text(path.read_text()[:20] + "\n" + path.read_text()), FIRST),
    "the last line cut off": (lambda path: path.write_text(path.read_text()[:-20]), 1),
    "a folder": (lambda path: [path.unlink(), path.mkdir()], Line("metrics.jsonl cannot be read: Is a directory")),
}
INPUTS = [Input("checkpoints", what, evaluated(change), right) for what, (change, right) in CASES.items()]
INPUTS += [Input("checkpoints", what, newest(change), right) for what, (change, right) in LISTED.items()]
INPUTS += [
    Input("checkpoints", f"--checkpoint={text}", evaluated(lambda _: None, f"--checkpoint={text}"), right)
    for text, right in ASKED.items()
]
INPUTS += [Input("checkpoints", f"the best, {what}", best(change), right) for what, (change, right) in BEST.items()]
