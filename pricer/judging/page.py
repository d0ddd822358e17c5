"""Pages of their own: no script, nothing loaded, every text escaped."""

import base64
from pathlib import Path
from typing import Any

import jinja2

from pricer.tables import usd


def page(template: Path, **values: Any) -> str:
    """Return a Jinja template filled with values, as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["usd"] = usd
    return environment.get_template(template.name).render(**values)


def picture(png: bytes) -> str:
    """Return a picture as the address of an `img` that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
