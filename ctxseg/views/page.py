"""What all pages have: their frame and style (`page.css`), in one file that needs no network; and text made safe."""

import html
import json
from pathlib import Path

_FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def frame(title: str, body: str) -> str:
    """A whole page; `title` is text, `body` HTML."""
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    return _FRAME.format(title=text(title), style=style, body=body)


def text(value) -> str:
    """A text, or the JSON of anything else, as HTML."""
    return html.escape(value if isinstance(value, str) else json.dumps(value))
