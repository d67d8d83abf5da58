"""The terminal prints text literally: neither rich markup nor escape sequences have an effect."""

from __future__ import annotations

import io

import pytest
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.cli.terminal import Terminal, recorder, without_colours

HOSTILE = "s[/b] [red]x[/] :smile: \x1b]0;title\x07\x1b[2J\x9b31m\r\\[bold] http://u:SECRET@h/x \udcff"
SHOWN = r"s[/b] [red]x[/] :smile: \x1b]0;title\x07\x1b[2J\x9b31m\x0d\[bold] http://***@h/x \udcff"


def terminal(**options: object) -> tuple[Terminal, io.StringIO]:
    sink = io.StringIO()
    return Terminal(file=sink, width=300, **options), sink


def table(cell: str | Text) -> Table:
    made = Table(cell if isinstance(cell, str) else cell.plain, title=cell, caption=cell)
    made.add_row(cell)
    return made


@pytest.mark.parametrize(
    "thing", [HOSTILE, table(HOSTILE), Group(HOSTILE, Group(HOSTILE))], ids=["text", "table", "group"]
)
def test_text_is_printed_literally_everywhere(thing: str | Table | Group) -> None:
    console, sink = terminal()
    console.print(thing)
    assert SHOWN in sink.getvalue()
    assert not set(sink.getvalue()) & set("\x1b\x07\r\x9b\udcff")
    assert sink.getvalue().encode()


@pytest.mark.parametrize(
    "thing", [Text(HOSTILE), table(Text(HOSTILE)), Group(Text(HOSTILE))], ids=["text", "table", "group"]
)
def test_characters_of_styled_text_are_spelt_out_too(thing: Text | Table | Group) -> None:
    console, sink = terminal()
    console.print(thing)
    assert r"\x1b]0;title" in sink.getvalue()
    assert not set(sink.getvalue()) & set("\x1b\x9b\udcff")


def test_a_line_has_only_the_styles_of_its_parts() -> None:
    console, sink = terminal(force_terminal=True, color_system="standard", no_color=False)
    console.say((HOSTILE, "red"), HOSTILE)
    assert sink.getvalue() == f"\x1b[31m{SHOWN}\x1b[0m{SHOWN}\n"


def test_a_long_line_is_one_line() -> None:
    console, sink = terminal()
    console.say("word " * 200)
    assert sink.getvalue().count("\n") == 1


def test_a_status_message_may_contain_any_text() -> None:
    console, sink = terminal(force_terminal=True)
    with console.status(f"reading {HOSTILE}"):
        pass
    with Live(Text(HOSTILE), console=console):
        pass
    assert "\x1b]0;" not in sink.getvalue()
    assert "\x1b[2J" not in sink.getvalue()


def test_a_picture_holds_no_control_characters() -> None:
    console = recorder(300)
    console.print(table(HOSTILE), Text(HOSTILE))
    drawn = console.export_svg(title="x")
    assert not set(drawn) & set("\x1b\x07\x9b\udcff")


def test_colours_of_a_log_are_removed_and_other_control_characters_spelt_out() -> None:
    assert without_colours("\x1b[36m(pid=1)\x1b[0m \x1b[2Jx\n") == "(pid=1) \\x1b[2Jx\n"
