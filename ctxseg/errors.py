"""The one exception that a user is meant to see."""


class UserError(Exception):
    """Bad input: one line that names the file or config field at fault and what would be right.

    `main.py` prints the line and exits with status 2; `--debug` shows the traceback as well.
    """
