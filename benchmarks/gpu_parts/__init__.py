"""The parts of `benchmarks/gpu.py`. Each is a module with

TITLE, NOTE                  heading of its table, and the meaning of its figures
FRESH                        whether each entry has its own process: the peak memory that a device reports is that of a process
entries()                    names of the entries, the most important ones first
measure(entry, tiny, images) figures, a dict for JSON; {"skipped": reason} if the entry cannot be measured on this machine
COLUMNS                      titles of the columns, the first of which has the names of the entries
cells(entry, figures, parts) text of the other columns, None for a missing figure. `parts` has all results: {part: {entry: figures}}
"""

import importlib

NAMES = {
    "ceilings": "ceilings",
    "steps": "steps",
    "attention": "attention",
    "renet": "renet",
    "crf": "crf",
    "tests": "values",
}


def part(name: str):
    """The module of a part. Importing it imports JAX, but uses no device."""
    return importlib.import_module(f"gpu_parts.{NAMES[name]}")
