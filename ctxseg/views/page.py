"""HTML pages from the Jinja templates in `templates/`, which escape all text, and values for them.

A page is one file that needs no network.
"""

import base64
import io
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup, escape
from PIL import Image

# Maximum width of a picture, in pixels.
MAX_WIDTH = 512

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=jinja2.select_autoescape(("html",)),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# Allows a line break after each dot of a name.
_templates.filters["wbr"] = lambda text: escape(text).replace(".", Markup(".<wbr>"))


def render(template: str, **values) -> str:
    """Renders a page; `values` are texts and numbers, or lists, dicts and objects of them."""
    return _templates.get_template(template).render(**values)


def image(data, kind, alt):
    """An encoded image as a data URL."""
    return {"note": None, "alt": alt, "src": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"}


def figure(drawn, alt):
    """A figure of matplotlib, as SVG."""
    svg = io.BytesIO()
    drawn.savefig(svg, format="svg", metadata={"Date": None})
    return image(svg.getvalue(), "svg+xml", alt)


def picture(picture, alt, form):
    """A picture for the page, encoded as `form`, JPEG or PNG."""
    data = io.BytesIO()
    if form == "JPEG":
        _small(picture, Image.Resampling.BILINEAR).save(data, form, quality=85, subsampling=0)
    else:
        _small(picture, Image.Resampling.NEAREST).save(data, form, optimize=True)
    return image(data.getvalue(), form.lower(), alt)


def _small(picture, method):
    """`picture`, reduced to `MAX_WIDTH` if it is wider."""
    width = min(picture.width, MAX_WIDTH)
    return picture.resize((width, max(round(picture.height * width / picture.width), 1)), method)


def number(score):
    """Four decimals, – for None."""
    return "–" if score is None else f"{score:.4f}"


def percent(share):
    """A share in [0, 1] in percent with one decimal, – for None."""
    return "–" if share is None else f"{100 * share:.1f} %"


def counted(number, noun):
    """A number of things: 1 pixel, 2,000 pixels."""
    return f"{number:,.0f} {noun}{'' if number == 1 else 's'}"


class Column(NamedTuple):
    """A column of `parts.bars` that is not a run.

    Attributes:
        name: its heading.
        colour: of its bars.
    """

    name: str
    colour: str


def bar(run, value, compared=None, note=None):
    """A cell with the bar of a score in [0, 1], its difference from `compared`, in points, and a note below. `run`: or a `Column`."""
    difference = kind = None
    if compared is not None and value is not None:
        points = round(100 * (value - compared), 1)
        kind = "more" if points > 0 else "less" if points < 0 else "same"
        difference = f"{points:+.1f}" if points else "±0.0"
    width = f"{100 * (value or 0):.2f}"
    return {
        "width": width,
        "colour": run.colour,
        "number": number(value),
        "difference": difference,
        "kind": kind,
        "note": note,
    }
