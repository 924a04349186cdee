"""Pages: templates in `templates/`, filled by Jinja, which makes all text safe. A page is one file that needs no network."""

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
# A dotted name may be broken after each dot.
_templates.filters["wbr"] = lambda text: escape(text).replace(".", Markup(".<wbr>"))


def render(template: str, **values) -> str:
    """A whole page; `values` are text and numbers, and lists, dicts and objects of them."""
    return _templates.get_template(template).render(**values)
