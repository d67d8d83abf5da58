"""A claim holds if one side is lower at every point; columns are compared seed by seed."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Any

import pytest

from orchestrator import report
from orchestrator.planning.spec import SweepSpec
from orchestrator.report import lines
from orchestrator.report.claims import Verdict
from orchestrator.report.comparison import compare, pair
from poisons import Store
from tests.orchestrator.report.test_report import GRID, METRICS, status, table
from tests.orchestrator.sweeps import plan_of, tiny
from trainers import InputError

#        clean, 1 epoch    clean, 2 epochs   ops, 1 epoch      ops, 2 epochs
ACCS = [0.30, 0.32, 0.40, 0.50, 0.52, 0.54, 0.20, 0.34, 0.21, 0.30, 0.31, 0.32]  # fmt: skip
CLEAN, OPS = {"data.poison": "clean"}, {"data.poison": "ops"}


def verdict(store: Store, accs: list[float | None], *, words: Any = None, **claim: Any) -> Verdict:
    claims = [{"says": "so it is", **claim}]
    found = status(store, accs, report={"claims": claims, **(words or {})})
    (one,) = report.make_sheet(found, Path("tiny.yaml")).claims
    return one


def test_a_claim_ranges_over_the_axes_that_it_does_not_name(store: Store) -> None:
    found = verdict(store, ACCS, lower=OPS, higher=CLEAN)
    assert found.verdict == "holds"
    assert [dict(point.at) for point in found.points] == [{"train.epochs": "1"}, {"train.epochs": "2"}]
    assert [(point.agree, point.pairs) for point in found.points] == [(2, 3), (3, 3)]
    assert lines.claim(found) == [
        "holds: so it is (2 of 2 points, 5 of 6 seeds)",
        "  1: ops 25.00 ± 7.81 (3) < clean 34.00 ± 5.29 (3), 2 of 3 seeds agree",
        "  2: ops 31.00 ± 1.00 (3) < clean 52.00 ± 2.00 (3), 3 of 3 seeds agree",
    ]


def test_a_claim_agrees_with_a_naive_reading_of_the_values(store: Store) -> None:
    """Every margin and both directions, counted from the plain list of values."""
    cells = {
        (p, e): ACCS[6 * i + 3 * j : 6 * i + 3 * j + 3]
        for i, p in enumerate(("clean", "ops"))
        for j, e in enumerate("12")
    }
    for (low, high), margin in itertools.product([("ops", "clean"), ("clean", "ops")], [-30, 0, 9, 20.5]):
        found = verdict(store, ACCS, lower={"data.poison": low}, higher={"data.poison": high}, margin=margin)
        for point, epochs in zip(found.points, "12", strict=True):
            a, b = cells[low, epochs], cells[high, epochs]
            assert point.holds == (100 * statistics.fmean(a) + margin < 100 * statistics.fmean(b) - 1e-9)
            assert point.agree == sum(100 * x + margin < 100 * y - 1e-9 for x, y in zip(a, b, strict=True))
        assert (found.verdict == "holds") == all(point.holds for point in found.points)


def test_one_failing_point_refutes_a_claim_and_is_listed_first(store: Store) -> None:
    found = verdict(store, ACCS, lower=OPS, higher=CLEAN, margin=10)
    assert found.verdict == "does not hold"
    assert lines.claim(found)[0] == "does not hold: so it is (1 of 2 points, 4 of 6 seeds)"
    assert lines.claim(found)[1] == (
        "  1: ops 25.00 ± 7.81 (3) + 10 not < clean 34.00 ± 5.29 (3), 1 of 3 seeds agree"
    )


def test_a_number_in_a_claim_is_in_the_displayed_unit(store: Store) -> None:
    assert verdict(store, ACCS, lower=OPS, higher=31.5).verdict == "holds"
    assert verdict(store, ACCS, lower=OPS, higher=30.5).verdict == "does not hold"
    found = verdict(store, ACCS, lower=33, higher=CLEAN)
    assert found.points[0].agree == 1
    assert lines.at_point(found.points[0]).startswith("1: 33 < clean 34.00")
    loss = verdict(store, ACCS, words={"metric": "train/loss"}, lower=0.6, higher=OPS)
    assert loss.verdict == "holds", "a loss is no percentage"


def test_where_restricts_the_points(store: Store) -> None:
    found = verdict(store, ACCS, lower=OPS, higher=CLEAN, margin=10, where={"train.epochs": ["2"]})
    assert found.verdict == "holds"
    assert len(found.points) == 1


def test_a_claim_is_not_known_without_trials_and_holds_so_far_without_all_seeds(store: Store) -> None:
    found = verdict(store, ACCS[:7], lower=OPS, higher=CLEAN)
    assert found.verdict == "not known yet"
    assert [point.holds for point in found.points] == [True, None]
    assert "- (0 of 3) ? clean 52.00 ± 2.00 (3)" in lines.claim(found)[1]
    found = verdict(store, [*ACCS[:10], None], lower=OPS, higher=CLEAN)
    assert (found.verdict, found.complete) == ("holds", False)
    assert lines.claim(found)[0].startswith("holds so far: ")
    other = Store(store.root.parent / "other")
    found = verdict(other, [*ACCS[:6], 0.9], lower=OPS, higher=CLEAN)
    assert found.verdict == "does not hold", "and never will"


def test_claims_can_name_metrics_as_an_axis(store: Store) -> None:
    words = {"metrics": METRICS}
    loss = {"data.poison": "ops", "metric": "loss"}
    found = verdict(store, ACCS, words=words, lower=0.6, higher=loss)
    assert (found.verdict, len(found.points), found.points[0].metric) == ("holds", 2, "train/loss")
    both = verdict(store, ACCS, words=words, lower=OPS, higher=CLEAN)
    assert [point.holds for point in both.points] == [True, True, False, False], "and the loss is higher"


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        ({"lower": {"data.poison": "osp"}, "higher": 3}, "no data.poison=osp; did you mean 'ops'"),
        ({"lower": OPS, "higher": {"train.epochs": "1"}}, "only one of them names data.poison, train.epochs"),
        ({"lower": 1, "higher": 2}, "both numbers"),
        ({"lower": OPS, "higher": 3, "where": {"data.poison": ["ops"]}}, "where names data.poison"),
    ],
)
def test_a_claim_about_unknown_labels_is_not_known_with_a_reason(
    store: Store, claim: dict[str, Any], why: str
) -> None:
    found = verdict(store, ACCS, **claim)
    assert found.verdict == "not known yet"
    assert why in (found.why or "")
    assert lines.claim(found) == [f"not known yet: so it is ({found.why})"]


def test_a_claim_about_an_unknown_axis_is_an_error(store: Store) -> None:
    claims = [{"says": "x", "lower": {"data.poisn": "ops"}, "higher": 3}]
    with pytest.raises(InputError, match=r"report: 'data.poisn' is not an axis of the grid; did you mean"):
        plan_of(tiny(report={"claims": claims}), store)
    with pytest.raises(InputError, match="'metric' is not an axis"):
        plan_of(tiny(report={"rows": "metric"}), store)
    SweepSpec.parse(tiny(report={"rows": "metric", "metrics": METRICS}), "test")


def test_skipped_cells_are_not_points_of_a_claim(store: Store) -> None:
    skip = [{"data.poison": "ops", "train.epochs": 2}]
    claims = [{"says": "so", "lower": OPS, "higher": CLEAN}]
    found = status(store, ACCS[:9], skip=skip, report={"claims": claims})
    (one,) = report.make_sheet(found, Path("tiny.yaml")).claims
    assert (one.verdict, len(one.points)) == ("holds", 1)


def test_columns_are_compared_seed_by_seed(store: Store) -> None:
    stats = pytest.importorskip("scipy.stats")
    found = compare(table(store, [*ACCS[:10], None, 0.5]), "1", "2")
    first, second = [b - a for a, b in zip(ACCS[:3], ACCS[3:6], strict=True)], [0.30 - 0.20, 0.5 - 0.21]
    for row, differences in zip(found.rows, (first, second), strict=True):
        theirs = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
        assert row.pairs == len(differences)
        assert row.mean == pytest.approx(statistics.fmean(differences))
        assert row.interval == pytest.approx((theirs.low, theirs.high))
        assert row.p == row.smallest_p == 2 / 2 ** len(differences)
    means = [statistics.fmean(first), statistics.fmean(second)]
    assert found.overall is not None
    assert (found.overall.mean, found.overall.pairs) == (pytest.approx(statistics.fmean(means)), 2)
    assert lines.comparison(found)[-1] == "  with 3 pairs, p cannot be below 0.25"
    assert "-0.00" not in lines.comparison(compare(table(store, [0.5] * 12), "1", "2"))[1]


def test_a_metric_has_one_label() -> None:
    twice = {"one": "test/clean_acc", "two": "test/clean_acc"}
    with pytest.raises(InputError, match="'one' and 'two' are both 'test/clean_acc'; leave one out"):
        SweepSpec.parse(tiny(report={"metrics": twice}), "test")


def test_rows_of_several_metrics_are_not_averaged(store: Store) -> None:
    words = {"metrics": METRICS, "rows": ["metric", "train.epochs"]}
    found = compare(report.tabulate(status(store, ACCS, report=words)), "clean", "ops")
    assert (len(found.rows), found.overall) == (4, None)


def test_columns_without_pairs_say_so(store: Store) -> None:
    assert lines.comparison(compare(table(store, [0.1]), "1", "2")) == ["2 minus 1: no seed has both yet"]


def test_labels_of_compared_columns_may_contain_commas(store: Store) -> None:
    grid = {**GRID, "data.poison": {"a": "clean", "a,b": "ops", "c d": {"kind": "ops", "pixels": 2}}}
    found = report.tabulate(status(store, [], report={"columns": "data.poison"}, name="x"))
    assert pair(" clean , ops", found) == ("clean", "ops")
    plan = plan_of(tiny(grid=grid, report={"columns": "data.poison"}), store)
    commas = report.tabulate(type(status(store, []))(plan.snapshot, {}, {}, frozenset()))
    assert pair("a,a,b", commas) == ("a", "a,b")
    assert pair("a,b,c d", commas) == ("a,b", "c d")
    with pytest.raises(InputError, match=r"no column 'osp'; did you mean 'ops'; there are 'clean', 'ops'"):
        pair("clean,osp", found)
    with pytest.raises(InputError, match="is one column; write two"):
        pair("clean", found)
    with pytest.raises(InputError, match="on both sides"):
        compare(found, "ops", "ops")


def test_a_sweeps_comparison_with_a_missing_column_becomes_a_note(store: Store) -> None:
    found = status(
        store, ACCS, report={"columns": "data.poison", "compare": [["clean", "em"], ["clean", "ops"]]}
    )
    sheet = report.make_sheet(found, Path("tiny.yaml"), ["clean,ops"])
    assert [(one.first, one.second) for one in sheet.comparisons] == [("clean", "ops")]
    assert sheet.notes == ("compare: clean, em: the sweep has no column em",)
