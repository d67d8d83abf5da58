"""A document as one HTML file that fetches nothing."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from orchestrator.report.html.document import Document
from orchestrator.report.html.view import view_of
from trainers.printable import printable


def page_of(document: Document) -> str:
    """The whole page: style, script, pictures and all. Text of others is escaped; what the template takes as
    it is are our own files, and SVG whose text is escaped already. Unprintable characters are spelt out."""
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
    """A copy of plain data without unprintable characters, in names and in texts."""
    if isinstance(value, dict):
        return {printable(name): _printable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return printable(value) if isinstance(value, str) else value
