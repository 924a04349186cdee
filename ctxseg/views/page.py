"""HTML pages from the Jinja templates in `templates/`, which escape all text. A page is one file that needs no network."""

from pathlib import Path

import jinja2
from markupsafe import Markup, escape

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
