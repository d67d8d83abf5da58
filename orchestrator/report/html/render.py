"""A document as one self-contained HTML file."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from orchestrator.report.html.document import Document
from orchestrator.report.html.view import view_of
from trainers.printable import printable


def page_of(document: Document) -> str:
    """The whole page, with style, script and pictures. All text is escaped, except our own files, and SVG
    whose text is already escaped. Unprintable characters are spelt out."""
    folder = files("orchestrator.report.html")
    kept = {name: (folder / name).read_text() for name in ("page.html.j2", "page.css", "page.js")}
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.from_string(kept["page.html.j2"])
    return template.render(view_of(_printable(document)), style=kept["page.css"], script=kept["page.js"])


def _printable(value: Any) -> Any:
    """A copy of plain data, with unprintable characters in keys and texts spelt out."""
    if isinstance(value, dict):
        return {printable(name): _printable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return printable(value) if isinstance(value, str) else value
