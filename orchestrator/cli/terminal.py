"""The terminal output. Text from files, users and other machines is printed literally: markup and control
characters in it have no effect, and credentials are hidden.

Build styled text with `rich.text.Text`, whose parts have styles; nothing is parsed. Imports only light
modules.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

from trainers.printable import printable
from trainers.redaction import shown

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(Console):
    """A rich console without markup and emoji codes, which spells out unprintable characters."""

    def __init__(self, *, stderr: bool = False, **options: Any) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text), style)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(shown(text), **options)

    def status(self, status: RenderableType, **options: Any) -> Status:
        return super().status(Text(status) if isinstance(status, str) else status, **options)

    def say(self, *parts: str | tuple[str, str]) -> None:
        """Print texts and (text, style) pairs as one line, without wrapping."""
        words = ((part, "") if isinstance(part, str) else part for part in parts)
        line = Text.assemble(*((shown(text), style) for text, style in words))
        self.print(line, highlight=False, soft_wrap=True)


def without_colours(log: str) -> str:
    """The text of a log, safe to print: without the colour codes that Ray writes into it."""
    return shown(COLOUR.sub("", log).replace("\r\n", "\n"))


def recorder(width: int) -> Terminal:
    """A terminal that records its output, for `export_svg`."""
    return Terminal(record=True, width=width, file=io.StringIO())
