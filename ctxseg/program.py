"""How to call this program: from a clone, or installed."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_IS_CLONE = (_ROOT / "pyproject.toml").exists()
# The command that a user types. In a clone, ctxseg may not be installed.
NAME = "python main.py" if _IS_CLONE else "ctxseg"
# The command that starts the program as a subprocess.
COMMAND = [sys.executable, str(_ROOT / "main.py")] if _IS_CLONE else [sys.executable, "-m", "ctxseg"]
