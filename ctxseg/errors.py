"""The exception for errors that a user can correct."""


class UserError(Exception):
    """Bad input: one line that names the file or config field and the remedy.

    The command line prints it and exits with status 2; `--debug` shows the traceback as well. Characters of a file's name or contents
    that cannot be printed are escaped as in a Python string, so the message stays one line.
    """

    def __init__(self, line: str):
        super().__init__(printable(line))


def printable(text: str) -> str:
    """`text` with line breaks, control characters and invalid UTF-8 escaped: `\\n`, `\\x1b`, `\\udcff`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(e) -> str:
    """The message of an exception, its whitespace collapsed."""
    return " ".join(str(e).split())
