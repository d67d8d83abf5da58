"""Sphinx: `make docs` builds docs/_build/html; a warning is an error."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

# Imported first: autodoc rewrites annotations of pydantic's BaseModel when it documents a field, and mlflow's
# dependencies cannot be imported after that.
import orchestrator.tracking.tracker  # noqa: F401

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]

project = "opsctl"
version = release = PROJECT["version"]
author = copyright = "the opsctl authors"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_show_copyright = False
html_show_sphinx = False
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"exclude-members": "model_config, model_post_init"}


def as_rst(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text with `code`; to Sphinx they are reStructuredText."""
    parts = re.split(r"(`[^`]+`)", "\n".join(lines))
    marked = (f"``{p[1:-1]}``\\ " if p.startswith("`") else re.sub(r"([*|_\\])", r"\\\1", p) for p in parts)
    lines[:] = "".join(marked).split("\n")


def with_files(app: Sphinx, name: str, content: list[str]) -> None:
    """Link to files outside docs/ as files, since they are not pages of this site."""
    content[0] = re.sub(r"\]\((\.\./[^)#]+)\)", r"](<path:\1>)", content[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", with_files)
    app.connect("autodoc-process-docstring", as_rst)
