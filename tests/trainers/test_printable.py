"""What others wrote is shown as it is: no terminal and no Markdown viewer obeys it."""

from __future__ import annotations

import unicodedata

import pytest

from trainers.printable import as_markdown, one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é, 日本, ±\n\tindented", "plain, é, 日本, ±\n\tindented"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("a\rb\x00c\x7fd\x9be", r"a\x0db\x00c\x7fd\x9be"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("one\u2028line", r"one\u2028line"),
        ("file \udcff", r"file \udcff"),
    ],
)
def test_control_characters_are_spelt_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_no_control_character_is_left_and_all_can_be_encoded() -> None:
    everything = "".join(map(chr, range(0x110000)))
    left = [char for char in printable(everything) if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]
    assert set(left) == {"\n", "\t"}
    assert printable(everything).encode()
    assert unicodedata.bidirectional("\u202e") == "RLO"
    assert not {"RLO", "LRO", "RLE", "LRE", "RLI", "LRI", "FSI"} & {
        unicodedata.bidirectional(char) for char in printable(everything)
    }


def test_a_line_stays_one_line() -> None:
    assert one_line("host\n[red]fake line\t") == r"host\n[red]fake line\t"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("<script>alert(1)</script>", r"\<script>alert(1)\</script>"),
        ("[click](https://example.org)", r"\[click\](https://example.org)"),
        ("![x](https://example.org/x.png)", r"!\[x\](https://example.org/x.png)"),
        ("# heading", r"\# heading"),
        ("> quotation", r"\> quotation"),
        ("a  b\n\nc", "a b c"),
        ("\x1b[2J", r"\\x1b\[2J"),
        ("data.poison=ops, test/clean_acc > 0.5", "data.poison=ops, test/clean_acc > 0.5"),
    ],
)
def test_markdown_markup_is_escaped(text: str, written: str) -> None:
    assert as_markdown(text) == written
