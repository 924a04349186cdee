"""Checkpoints: the folder `checkpoints` of a run, and values of --checkpoint."""

import os
import shutil

from ctxseg.commands import command_line
from ctxseg.runs import checkpoints
from tests.damaged.bench import ErrorLine, Input


def evaluated(change, *flags):
    """The step that `--mode=evaluate` restores, after `change` of the folder of checkpoints."""

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
    """The step that `--mode=train` would continue from, after `change` of the folder of checkpoints."""

    def read(bench, folder):
        run = bench.copy(folder)
        change(run / "checkpoints")
        with checkpoints.Checkpoints(str(run / "checkpoints")) as saved:
            return saved.latest_step()

    return read


def remove(name):
    return lambda folder: shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()


def write(name, content):
    """Replaces a file or folder by a file with this content."""

    def change(folder):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return change


def cut(name):
    """Cuts a file, or the largest file in a folder, in half."""

    def change(folder):
        path = folder / name
        if path.is_dir():
            path = max((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return change


def replace_by_empty_folder(name):
    return lambda folder: [remove(name)(folder), (folder / name).mkdir()]


def empty_all_files(folder):
    for path in (folder / "2").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def overwrite_arrays(folder):
    """Overwrites all arrays of a checkpoint with other bytes, but keeps its description."""
    for path in (folder / "2/state").rglob("*"):
        if path.is_file() and path.name not in ("_METADATA",):
            path.write_bytes(b"x" * path.stat().st_size)


NONE = "run/checkpoints .*no checkpoint.*train"
READ = "run/checkpoints/2 .*delete"
CASES = {
    "no folder": (remove("."), ErrorLine(NONE)),
    "an empty folder": (replace_by_empty_folder("."), ErrorLine(NONE)),
    "a file in place of the folder": (write(".", b"x"), ErrorLine(NONE)),
    "an empty step": (replace_by_empty_folder("2"), ErrorLine(READ)),
    "a step without its state": (remove("2/state"), ErrorLine(READ)),
    "a step without its description": (remove("2/state/_METADATA"), ErrorLine(READ)),
    "a description cut off": (cut("2/state/_METADATA"), ErrorLine(READ)),
    "arrays cut off": (cut("2/state/d"), ErrorLine(READ)),
    "no arrays": (remove("2/state/d"), ErrorLine(READ)),
    "arrays of other bytes": (overwrite_arrays, ErrorLine(READ)),
    "all files empty": (empty_all_files, ErrorLine(READ)),
    "no manifest": (remove("2/state/manifest.ocdbt"), ErrorLine(READ)),
    "the position of the data cut off": (cut("2/data/metadata"), ErrorLine(READ)),
    "a score cut off": (cut("2/metrics/metrics"), ErrorLine(READ)),
    "the file of the step's metadata cut off": (cut("2/_CHECKPOINT_METADATA"), 2),
    "an empty folder of a later step": (lambda f: (f / "3").mkdir(), ErrorLine("run/checkpoints/3 .*delete")),
}  # fmt: skip
LISTED = {
    "a file in place of a step": (write("2", b"x"), 1),
    "a score that is a word": (write("2/metrics/metrics", b'{"mIoU": "x"}'), 2),
    "a score without mIoU": (write("2/metrics/metrics", b"{}"), 2),
    "not committed": (remove("2/commit_success.txt"), 2),
    "half-written": (lambda f: os.rename(f / "2", f / "2.orbax-checkpoint-tmp"), 1),
    "half-written, of an older version": (lambda f: os.rename(f / "2", f / "2.orbax-checkpoint-tmp-1700000000"), 1),
    "a step with letters": (lambda f: os.rename(f / "2", f / "2a"), 1),
    "a step of letters only": (lambda f: [remove("1")(f), os.rename(f / "2", f / "two")], None),
    "a negative step": (lambda f: os.rename(f / "2", f / "-2"), 1),
    "a step with zeros": (lambda f: os.rename(f / "2", f / "0002"), 1),
    "a huge step": (lambda f: os.rename(f / "2", f / "99999999999999999999"), 10**20 - 1),
    "hidden files and notes": (lambda f: [(f / ".DS_Store").write_bytes(b"x"), (f / "notes.txt").write_text("x")], 2),
    "a link to nothing": (lambda f: os.symlink("nowhere", f / "3"), 2),
}  # fmt: skip
FLAGS = {
    "3": ErrorLine("run/checkpoints .*no checkpoint.* step 3"),
    "99999999999999999999": ErrorLine("--checkpoint=9+\\b.*a step, best"),
    "-1": ErrorLine("--checkpoint=-1\\b.*a step, best"),
    "2.0": ErrorLine("--checkpoint=2.0\\b.*a step, best"),
    "": ErrorLine("--checkpoint=\\W.*a step, best"),
    "newest": ErrorLine("--checkpoint=newest\\b.*a step, best"),
    "²": ErrorLine("--checkpoint=².*a step, best"),
    "01": 1,
    "best": 1,
    "elsewhere/checkpoints/1": ErrorLine("--checkpoint=elsewhere/checkpoints/1\\b.*--workdir=.*run"),
}


def best(change):
    """The step of `--checkpoint=best`, after `change` of the run's metrics.jsonl."""
    return evaluated(lambda folder: change(folder.parent / "metrics.jsonl"), "--checkpoint=best")


WORD, NAN = (f'{{"step": 2, "kind": "eval", "mIoU": {value}}}\n' for value in ('"x"', "NaN"))
FIRST = ErrorLine("metrics.jsonl line 1\\b.*delete")
BEST = {
    "no scores": (os.unlink, 1),
    "a score that is a word": (lambda path: path.write_text(WORD), FIRST),
    "a score that is NaN": (lambda path: path.write_text(NAN + path.read_text()), FIRST),
    "a line cut off": (lambda path: path.write_text(path.read_text()[:20] + "\n" + path.read_text()), FIRST),
    "the last line cut off": (lambda path: path.write_text(path.read_text()[:-20]), 1),
    "a folder": (lambda path: [path.unlink(), path.mkdir()], ErrorLine("metrics.jsonl\\b.*Is a directory")),
}
INPUTS = [Input("checkpoints", name, evaluated(change), expected) for name, (change, expected) in CASES.items()]
INPUTS += [Input("checkpoints", name, newest(change), expected) for name, (change, expected) in LISTED.items()]
INPUTS += [
    Input("checkpoints", f"--checkpoint={text}", evaluated(lambda _: None, f"--checkpoint={text}"), expected)
    for text, expected in FLAGS.items()
]
INPUTS += [
    Input("checkpoints", f"the best, {name}", best(change), expected) for name, (change, expected) in BEST.items()
]
