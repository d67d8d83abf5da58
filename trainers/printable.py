r"""Text from files, users and other machines, as it can be shown: without characters that a terminal, an
editor or a browser would obey.

Those are control characters, among them ESC, which begins the sequences that move a cursor or rename a
window; characters that reverse the direction of text; and halves of characters, which cannot be encoded.
Imports nothing heavy.
"""

from __future__ import annotations

import re

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with each such character spelt out, `\x1b`; line feeds and tabs stay."""
    return UNPRINTABLE.sub(lambda found: spelt(found[0]), text)


def one_line(text: str) -> str:
    r"""`printable` text in one line: line feeds and tabs are spelt out too."""
    return printable(text).replace("\n", r"\n").replace("\t", r"\t")


def spelt(character: str) -> str:
    r"""An unprintable character as Python writes it, `\x1b` or `\u202e`."""
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def as_markdown(words: str) -> str:
    """Words that Markdown would read as emphasis, code, maths, a link, a tag, an entity, a heading or a
    quotation, as they are, in one line."""
    line = " ".join(printable(words).split())
    return re.sub(r"([\\`*\[\]<~$&]|(?<!\w)_|_(?!\w)|^[#>])", r"\\\1", line)
