"""One rounding rule: an accuracy, or a mean of several, is shown alike in every format."""

from __future__ import annotations

import html
import io
import math
import re
import tempfile
from fractions import Fraction
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator import report
from orchestrator.cli.display import Lines
from orchestrator.cli.tables import FittedTable, at_work, picture
from orchestrator.cli.terminal import RenderableType, Terminal
from orchestrator.monitoring.driver_status import Running
from orchestrator.monitoring.sweep_status import read_status
from orchestrator.planning.plan import Plan
from orchestrator.report.html import document_of, page_of
from orchestrator.report.latex import latex
from orchestrator.report.ranking import best_cells
from orchestrator.report.wording import fixed
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.orchestrator.sweeps import plan_of, tiny

SEARCH = {"search": "random", "num_samples": 1}
PERCENT = re.compile(r"(?<![\d.])\d+\.\d\d(?!\d)")

counts = st.integers(1, 60_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def exact(right: list[tuple[int, int]]) -> str:
    """The mean of fractions of correct answers in percent, to two decimals, halves away from zero, computed exactly."""
    percent = sum(Fraction(100 * k, n) for k, n in right) / len(right)
    hundredths = math.floor(100 * percent + Fraction(1, 2))
    return f"{hundredths // 100}.{hundredths % 100:02}"


def printed(what: RenderableType) -> str:
    console = Terminal(file=io.StringIO(), width=200)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]


def status(folder: Path, plan: Plan, accs: list[float]) -> report.Sheet:
    ledger = Ledger(str(folder))
    for task, acc in zip(plan.tasks, accs, strict=True):
        history = [{"epoch": 1.0, "train/acc": acc, "test/clean_acc": acc}]
        metrics = {"test/clean_acc": acc}
        ledger.publish(task.key, {"metrics": metrics, "seconds": 1.0, "history": history})
    return report.make_sheet(read_status(plan.snapshot, ledger), folder / "tiny.yaml")


@given(right=st.lists(counts, min_size=1, max_size=4))
@example(right=[(1801, 2000), (1802, 2000)])  # half of a hundredth: where a sum's last bit decided
@example(right=[(23, 1442)])  # and where five digits were taken for all of them
@example(right=[(1, 160)])
def test_a_mean_is_rounded_as_its_fraction_is(right: list[tuple[int, int]]) -> None:
    accs = [k / n for k, n in right]
    expected = exact(right)
    assert fixed(100 * math.fsum(accs) / len(accs), 2) == expected
    assert fixed(math.fsum(100 * acc for acc in accs) / len(accs), 2) == expected
    assert fixed(100 * sum(reversed(accs)) / len(accs), 2) == expected


@settings(max_examples=12)
@given(right=counts)
@example(right=(23, 1442))
@example(right=(1, 160))
@example(right=(3, 160))
@example(right=(10_000, 10_000))
def test_every_format_shows_a_trial_in_the_same_way(right: tuple[int, int]) -> None:
    acc, expected = right[0] / right[1], exact([right])
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        plan = plan_of(tiny(grid={"data.poison": ["ops"], "seed": [0]}, run=SEARCH), Store(folder))
        sheet = status(folder, plan, [acc])
        document = document_of([sheet], made)
        stream = io.StringIO()
        Lines(Terminal(file=stream, width=200)).trial_done(
            plan.tasks[0], {"metrics": {"test/clean_acc": acc}, "seconds": 1.25}
        )
        forms = {
            "terminal": printed(FittedTable(sheet.table)),
            "md": report.sheet_markdown(sheet),
            "latex": latex(sheet),
            "svg": picture(sheet),
            "ranking": "\n".join(best_cells(sheet.status)),
            "lines": stream.getvalue(),
            "running": printed(at_work([], [Running("seed=0", 5, 9, 3, acc, acc)])),
            "page": page_of(document),
        }
    assert set(PERCENT.findall(forms["md"])) == {expected}
    for name in ("terminal", "latex", "ranking", "lines", "running"):
        assert set(PERCENT.findall(forms[name])) == {expected}, name
    assert set(re.findall(r"(?<=[;>])\d+\.\d\d(?=[&<])", forms["svg"])) == {expected}
    assert trial_numbers(forms["page"]) == {expected}


def trial_numbers(page: str) -> set[str]:
    """The value of a page's only trial as the page shows it, in tables and beside figures."""
    text = html.unescape(
        re.sub(r"<(style|script).*?</\1>|\sd=\"[^\"]*\"|\stransform=\"[^\"]*\"", "", page, flags=re.S)
    )
    cells = re.findall(r"<td[^>]*>\s*(?:<b>)?(\d+\.\d\d)\b", text)
    figures = re.findall(r"(?:seed 0|mean|at the end|ops)[: ]+(\d+\.\d+)", text)
    assert cells
    assert len(figures) > 2
    return {*cells, *figures}


@settings(max_examples=8)
@given(right=st.lists(counts, min_size=2, max_size=3))
@example(right=[(1801, 2000), (1802, 2000)])
@example(right=[(9915, 10000), (9916, 10000)])
def test_every_format_shows_a_mean_in_the_same_way(right: list[tuple[int, int]]) -> None:
    grid = {"data.poison": ["ops"], "seed": list(range(len(right)))}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        sheet = status(folder, plan_of(tiny(grid=grid), Store(folder)), [k / n for k, n in right])
        page = page_of(document_of([sheet], made))
    (cell,) = sheet.table.cells.values()
    assert cell.std is not None
    both = f"{exact(right)} ± {fixed(100 * cell.std, 2)}"
    assert both in report.sheet_markdown(sheet)
    assert both in printed(FittedTable(sheet.table))
    assert both.replace("±", r"\ensuremath{\pm}") in latex(sheet)
    assert f"ops {both}" in page
    assert re.findall(r"at the end: (\d+\.\d+)", page) == [exact(right)]
