"""How this program is called: from a clone, or where it is installed."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_IS_CLONE = (_ROOT / "pyproject.toml").exists()
# What a person types; a clone need not be installed.
NAME = "python main.py" if _IS_CLONE else "ctxseg"
# What starts it in a process of its own.
COMMAND = [sys.executable, str(_ROOT / "main.py")] if _IS_CLONE else [sys.executable, "-m", "ctxseg"]
