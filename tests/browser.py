"""Chromium, as tests look at pages."""

import json
import re
import shutil
import subprocess
from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
# Elements that are wider than the page, without those in boxes that scroll sideways.
WIDE = """[...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > innerWidth + 1
  && !e.closest(".wide") && !e.closest("pre")).map(e => e.tagName)"""


def _run(folder, *arguments):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
               "--virtual-time-budget=3000", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]  # fmt: skip
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)


def errors(page: Path, folder: Path) -> list[str]:
    """The lines that the unchanged page, with its security policy, logs in the console."""
    log = _run(folder, "--enable-logging=stderr", f"file://{page}").stderr
    return [line for line in log.splitlines() if "CONSOLE" in line]


def on_a_phone(page: Path, script: str, folder: Path) -> dict:
    """The JSON that a script leaves as the text of the body, at a phone's width of 360 pixels. The script runs at the end of the page."""
    # The policy forbids scripts, such as this one.
    content = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text())
    # Chromium has no window this narrow, so the page is in a frame.
    (folder / "page.html").write_text(content.replace("</body>", f"<script>{script}</script></body>"))
    frame = '<iframe id=f src="page.html" width=360 height=800 style="border:0"></iframe>'
    copy = "<script>f.onload = () => { document.body.innerHTML = f.contentDocument.body.innerHTML }</script>"
    (folder / "frame.html").write_text(f"<!DOCTYPE html><body>{frame}{copy}</body>")
    done = _run(folder, f"file://{folder}/frame.html")
    return json.loads(re.search(r"<body>(\{.*\})", done.stdout, re.DOTALL)[1])
