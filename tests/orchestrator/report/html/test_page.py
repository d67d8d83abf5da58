"""The page of a report in a real browser: it makes no requests, logs nothing to the console, fits a phone, is readable
in dark mode and in print, and can be rendered again from its document."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from orchestrator.execution.trial import run_trial
from orchestrator.monitoring.sweep_status import read_status
from orchestrator.planning.plan import make_plan
from orchestrator.planning.spec import RunSpec, SweepSpec
from orchestrator.report import Sheet, make_sheet
from orchestrator.report.html import document_of, load_document, page_of, save_document, write_page
from orchestrator.report.html.__main__ import main as page_main
from orchestrator.report.html.figure import dot, panel, svg
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.conftest import CPU, ROOT
from tests.orchestrator.browser import Seen, browser, visit
from tests.orchestrator.sweeps import tiny
from trainers import InputError

EM = {
    "kind": "em",
    "generator": {"kind": "resnet18", "width": 4},
    "steps": 1,
    "train_steps": 1,
    "max_rounds": 1,
}
LONG = "ops with a label that is as long as nobody should ever make one <b>&"
PUBLISHED = {"source": "a paper, https://example.org/<paper>", "units": "percent", "tables": {"t": {"cells": [
    {"row": "1", "column": "clean", "value": 12.0},
    {"row": "1", "column": "em", "value": 99.5, "std": 0.4, "runs": 5},
    {"row": "2", "column": LONG, "value": 33.0},
]}}}  # fmt: skip
CLAIMS = [
    {"says": "Poison hurts", "lower": {"data.poison": LONG}, "higher": {"data.poison": "clean"}, "margin": 1},
    {"says": "Nobody reads noise", "lower": {"data.poison": "em"}, "higher": 101},
    {"says": "Noise is read better than it can be", "lower": 101, "higher": {"data.poison": "em"}},
    {"says": "Of what is not there", "lower": {"data.poison": "nothing"}, "higher": {"data.poison": "em"}},
]
PROBES = [
    {"kind": "loss_surface", "points": 3, "limit": 20},
    "distance",
    {"kind": "first_layer", "limit": 8, "pictured": 2},
    {
        "kind": "shuffle_test",
        "sets": {"ops": {"poison": "ops"}, "shuffled": {"poison": "ops", "shuffled": True}},
    },
]
SWEEP = tiny(
    name="a_bit_of_everything",
    question='Is there & stays there "what" was <asked>?',
    probes=PROBES,
    grid={
        "train.epochs": [1, 2, 3],
        "data.poison": {"clean": "clean", "em": EM, LONG: "ops"},
        "seed": [0, 1],
    },
    report={
        "rows": "train.epochs",
        "columns": "data.poison",
        "reference": "paper/t",
        "compare": [["clean", "em"], ["clean", LONG]],
        "claims": CLAIMS,
    },
)
FAILED, UNRUN = "train.epochs=2, data.poison=em, seed=1", "train.epochs=3, "
needs_browser = pytest.mark.skipif(browser() is None, reason="no chromium on this machine to open pages in")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("page") / "store")


@pytest.fixture(scope="module")
def sheets(store: Store) -> list[Sheet]:
    """A sweep with done, failed and missing trials, four probes and published figures; and one without results."""
    folder = store.root.parent
    (folder / "reference").mkdir()
    (folder / "reference" / "paper.json").write_text(json.dumps(PUBLISHED))
    plan = make_plan(SweepSpec.parse(SWEEP, "test"), store, "test")
    ledger = Ledger(store.where)
    for task in plan.tasks:
        if task.point.name == FAILED:
            record = {
                "error": "Boom: <script>alert(1)</script>\nand more",
                "traceback": None,
                "kind": "trial",
            }
            ledger.fail(task.key, record)
        elif not task.point.name.startswith(UNRUN):
            run_trial(task.trial, store, device=CPU, probes=task.probes, run=RunSpec())
    nothing = make_plan(
        SweepSpec.parse(
            tiny(name="nothing-yet", grid={"data.poison": ["clean", "ops"], "train.epochs": [4]}), "test"
        ),
        store,
        "test",
    )
    found = [(plan, "tiny.yaml"), (nothing, "nothing.yaml")]
    return [make_sheet(read_status(plan.snapshot, ledger), folder / name) for plan, name in found]


@pytest.fixture(scope="module")
def page(sheets: list[Sheet], store: Store) -> Path:
    file = store.root.parent / "page.html"
    write_page(sheets, file, str(store.root))
    return file


# -- in a browser

WIDE = """[...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, svg, .skip")
  && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.tagName + "." + e.className)"""
PALE = """(() => {
  const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parse = text => text.match(/[\\d.]+/g).map((v, i) => text.startsWith("color(") && i < 3 ? 255 * v : +v);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const words = e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim());
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    if (!words(e) || e.closest("script, title")) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(parse(e.closest("svg") ? style.fill : style.color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(ratio.toFixed(2) + " " + e.tagName + " " + e.textContent.slice(0, 40));
  }
  return found;
})()"""
TINY = """[...document.querySelectorAll("figure svg text")].filter(e => e.getClientRects().length)
  .filter(e => e.getBoundingClientRect().height < 9).map(e => e.textContent)"""
ASK = {
    "width": "document.documentElement.scrollWidth - innerWidth",
    "wide": WIDE,
    "pale": PALE,
    "tiny": TINY,
    "text": "document.body.innerText.length",
    "ids": "[...document.querySelectorAll('[id]')].map(e => e.id)",
    "broken": "[...document.images].filter(e => e.complete && !e.naturalWidth && e.checkVisibility()).length",
}
OPEN = 'document.querySelectorAll("details").forEach(e => { e.open = true })'


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_it_is_quiet_self_contained_and_readable(page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    seen = visit(page, tmp_path, width=width, dark=dark, ask={"open": OPEN, **ASK}, picture=True)
    check_readable(seen, page)
    assert seen.results["text"] > 3000
    assert seen.picture.startswith(b"\x89PNG")


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_a_shaded_matrix_of_defenses_is_readable(tmp_path: Path, width: int, dark: bool) -> None:
    page = tmp_path / "page.html"
    page.write_text(page_of(load_document(ROOT / "results" / "defenses_digits.json")))
    shaded = "document.querySelectorAll('td.shaded').length"
    seen = visit(page, tmp_path, width=width, dark=dark, ask={"open": OPEN, **ASK, "shaded": shaded})
    check_readable(seen, page)
    assert seen.results["shaded"] >= 18 * 5


def check_readable(seen: Seen, page: Path) -> None:
    assert seen.messages == []
    assert fetched(seen) == [page.resolve().as_uri()]
    assert seen.results["width"] <= 0, "it is not wider than the window"
    assert seen.results["wide"] == []
    assert seen.results["pale"] == [], "text of a contrast below 4.5 to 1"
    assert seen.results["tiny"] == []
    assert seen.results["broken"] == 0
    assert len(set(seen.results["ids"])) == len(seen.results["ids"]) > 10


@needs_browser
def test_print_expands_folded_sections(page: Path, tmp_path: Path) -> None:
    seen = visit(page, tmp_path, printed=True)
    assert seen.printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", seen.printed)) >= 2
    assert seen.messages == []


def fetched(seen: Seen) -> list[str]:
    """The requests to other hosts; data: URLs, which are part of the page, do not count."""
    return [url for url in seen.requests if not url.startswith("data:")]


# -- in its text


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects the text and the URLs that would be fetched."""

    EMPTY = frozenset(["meta", "link", "img", "br", "hr", "input", "path", "circle", "use"])

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += [data]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_it_is_well_formed_and_escapes_user_text(page: Path) -> None:
    text = page.read_text()
    assert "<script>alert" not in text
    assert "<b>&" not in text
    read = Page(text)
    assert read.open == []
    assert read.links
    assert {link[0:5] for link in read.links if not link.startswith("#")} == {"data:"}
    for drawn in re.findall(r"<svg role.*?</svg>", text, re.S):
        ElementTree.fromstring(drawn)


def test_a_figure_spells_out_control_characters_and_drops_those_not_allowed_in_xml() -> None:
    with panel() as (figure, axes):
        dot(axes, 0, 0, "a\x1b[0m<b>&", face="red")
        found = ElementTree.fromstring(svg(figure, "label \x00\ufffe<c>"))
    assert found.attrib["aria-label"] == r"label \x00<c>"
    assert [title.text for title in found.iter("title")] == [r"a\x1b[0m<b>&"]


def test_it_contains_everything_that_a_reviewer_needs(page: Path, sheets: list[Sheet]) -> None:
    text = Page(page.read_text()).text
    cell = sheets[0].table.cells["1", "clean"]
    assert cell.mean is not None
    for words in (
        sheets[0].table.question,
        f"{100 * cell.mean:.2f}",
        "1 of 2 seeds; 1 failed",
        "2 not run",
        "99.50 ± 0.40",
        "Boom: <script>alert(1)</script>",
        "holds",
        "does not hold",
        "no data.poison=nothing",
        "em minus clean",
        "95 % interval of the mean",
        "Seed by seed",
        "Learning curves",
        "Against train.epochs",
        "Loss surface",
        "Distance",
        "First layer",
        "Shuffle test",
        "Data sets",
        "Settings that all trials share",
        "machine time",
        "machines",
        "torch",
        cell_key(sheets[0]),
    ):
        assert words in text, words
    assert "nothing-yet" in text
    assert "2 trials: 2 missing" in text


def cell_key(sheet: Sheet) -> str:
    return sheet.status.snapshot.entries[0].key


# -- from its document


def test_a_page_is_rendered_from_its_document_without_the_store(
    sheets: list[Sheet], store: Store, page: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "results" / "digits.json"
    write_page(sheets, kept, str(store.root))
    again = subprocess.run(
        [sys.executable, "-m", "orchestrator.report.html", kept],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (again.returncode, again.stderr) == (0, "")
    made = kept.with_suffix(".html").read_text()
    assert page_of(load_document(kept)) == made
    assert undated(made) == undated(page.read_text())


def undated(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", text)


def test_a_document_is_read_back_unchanged(sheets: list[Sheet], store: Store, tmp_path: Path) -> None:
    document = document_of(sheets, str(store.root))
    save_document(document, tmp_path / "a.json")
    assert load_document(tmp_path / "a.json") == document
    assert "NaN" not in (tmp_path / "a.json").read_text()
    assert str(store.root) not in (tmp_path / "a.json").read_text(), "no place on anybody's disk"
    bare = document_of(sheets)
    assert bare["data"] == []
    assert "Learning curves" not in page_of(bare)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"format": 1}', '{"format": 99, "sweeps": []}'])
def test_an_invalid_document_is_rejected(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "page.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match="is not the document of a report page"):
        load_document(file)


def test_an_incomplete_document_gives_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "page.json"
    monkeypatch.setattr(sys, "argv", ["page", str(file)])
    for text in (
        '{"format": 2, "sweeps": []}',
        '{"format": 2, "made": "2026-01-01T00:00:00", "sweeps": [1]}',
    ):
        file.write_text(text)
        assert page_main() == 2
        assert "page.json is not the document of a report page" in capsys.readouterr().err


# -- of any size


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    else:
        yield value


def test_a_document_is_small_even_with_long_histories(sheets: list[Sheet], store: Store) -> None:
    document = document_of(sheets, str(store.root))
    assert len(json.dumps(document)) < 600_000
    assert len(page_of(document)) < 2_000_000
    assert not any(isinstance(leaf, float) and len(f"{leaf!r}") > 24 for leaf in leaves(document))
