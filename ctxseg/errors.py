"""The one exception that a user is meant to see."""


class UserError(Exception):
    """Bad input: one line that names the file or config field at fault and what would be right.

    `main.py` prints the line and exits with status 2; `--debug` shows the traceback as well. What a file's name or content puts into it
    stays one line: what cannot be printed is escaped, as in a Python string.
    """

    def __init__(self, line: str):
        super().__init__(printable(line))


def printable(text: str) -> str:
    """`text` with line breaks, control characters and what is no UTF-8 as `\\n`, `\\x1b`, `\\udcff`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(e) -> str:
    return " ".join(str(e).split())
