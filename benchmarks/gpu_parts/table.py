"""The results as Markdown."""

from gpu_parts import NAMES, part


def outcome(name: str, entry: str, result: dict | None, parts: dict) -> list[str]:
    """The cells of an entry, without its name. An entry without figures has a single cell with the reason."""
    if result is None:
        return ["not reached"]
    if "stopped" in result:
        return [f"stopped after {result['stopped']} s, at the end of its part"]
    for key in ("skipped", "error"):
        if key in result:
            return [f"{key}: {result[key].replace('|', '/')}"]
    return ["–" if cell is None else cell for cell in part(name).cells(entry, result, parts)]


def markdown(results: dict) -> str:
    """A page with a table for each part that has been started."""
    header = ", ".join(
        f"{key} {value}" for key, value in results.items() if key != "parts" and value not in (None, False)
    )
    lines = ["# Measured by benchmarks/gpu.py", "", header]
    for name in NAMES:
        if name not in results["parts"]:
            continue
        module, stored = part(name), results["parts"][name]
        columns = module.COLUMNS
        lines += ["", f"## {module.TITLE}", "", module.NOTE, ""]
        lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        for entry in module.entries():
            cells = outcome(name, entry, stored.get(entry), results["parts"])
            cells += [""] * (len(columns) - 1 - len(cells))
            lines.append(f"| {' | '.join([entry, *cells])} |")
    return "\n".join(lines) + "\n"
