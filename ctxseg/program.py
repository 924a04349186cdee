"""How to call this program: from a clone, or installed."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_IS_CLONE = (_ROOT / "pyproject.toml").exists()
# The command to type; a clone need not be installed.
NAME = "python main.py" if _IS_CLONE else "ctxseg"
# The command that starts it as a subprocess.
COMMAND = [sys.executable, str(_ROOT / "main.py")] if _IS_CLONE else [sys.executable, "-m", "ctxseg"]
