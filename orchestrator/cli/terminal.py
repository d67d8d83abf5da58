"""What prints on a terminal. Text of files, users and other machines is shown as it is: none of it is
markup, no character of it is obeyed, and credentials in it are hidden.

Styled text is made with `rich.text.Text`, whose parts have styles; nothing is parsed. Imports nothing heavy.
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
    """A console of rich without markup and emoji codes, on which unprintable characters are spelt out."""

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
        """Print one line, however long, of texts and (text, style) pairs."""
        words = ((part, "") if isinstance(part, str) else part for part in parts)
        line = Text.assemble(*((shown(text), style) for text, style in words))
        self.print(line, highlight=False, soft_wrap=True)


def without_colours(log: str) -> str:
    """Lines of a log, as they can be shown: without the colours that Ray writes into it."""
    return shown(COLOUR.sub("", log).replace("\r\n", "\n"))


def recorder(width: int) -> Terminal:
    """A terminal that keeps what is printed on it, for `export_svg`."""
    return Terminal(record=True, width=width, file=io.StringIO())
