r"""Text from files, users and other machines, made safe to show in a terminal, an editor or a browser.

Unsafe are control characters, including ESC, which starts the sequences that move a cursor or rename a
window; characters that reverse the direction of text; and lone surrogates, which cannot be encoded. Imports
nothing heavy.
"""

from __future__ import annotations

import re

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with each unsafe character spelt out, such as `\x1b`; line feeds and tabs stay."""
    return UNPRINTABLE.sub(lambda found: spelt(found[0]), text)


def one_line(text: str) -> str:
    r"""`printable` text in one line: line feeds and tabs are spelt out too."""
    return printable(text).replace("\n", r"\n").replace("\t", r"\t")


def spelt(character: str) -> str:
    r"""An unprintable character as Python writes it, `\x1b` or `\u202e`."""
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def as_markdown(words: str) -> str:
    """Text in one line, escaped so that Markdown shows it literally: no emphasis, code, maths, links, tags,
    entities, headings or quotations."""
    line = " ".join(printable(words).split())
    return re.sub(r"([\\`*\[\]<~$&]|(?<!\w)_|_(?!\w)|^[#>])", r"\\\1", line)
