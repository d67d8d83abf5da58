"""What a report is going to lack is said before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.report.preview import gaps
from poisons import Store
from tests.conftest import Opsctl
from tests.orchestrator.sweeps import plan_of, tiny, write

GRID = {"data.poison": ["clean", "ops"], "seed": [0, 1]}
SOUND = {"says": "so it is", "lower": {"data.poison": "ops"}, "higher": {"data.poison": "clean"}}
LACKING: list[tuple[dict[str, Any], str]] = [
    ({"reference": "paper/t"}, "report.reference: 'paper/t': no file paper.json in"),
    ({"compare": [["ops", "osp"]]}, "compare: ops, osp: the sweep has no column osp"),
    (
        {"claims": [SOUND, {**SOUND, "lower": {"data.poison": "osp"}}]},
        "claim 'so it is': no data.poison=osp; did you mean 'ops'; there are 'clean', 'ops'",
    ),
    (
        {"claims": [{**SOUND, "lower": 1, "higher": 2}]},
        "claim 'so it is': lower and higher are both numbers; let one name a cell",
    ),
    (
        {"claims": [{**SOUND, "where": {"data.poison": ["ops"]}}]},
        "claim 'so it is': where names data.poison, which lower or higher names too",
    ),
]


@pytest.mark.parametrize(("report", "gap"), LACKING)
def test_each_gap_is_one_line(store: Store, tmp_path: Path, report: dict[str, Any], gap: str) -> None:
    plan = plan_of(tiny(grid=GRID, report={"columns": "data.poison", **report}), store)
    (found,) = gaps(plan.snapshot, tmp_path / "tiny.yaml")
    assert found.startswith(gap)


def test_a_sound_report_has_no_gaps(store: Store, tmp_path: Path) -> None:
    report = {"claims": [SOUND], "compare": [["clean", "ops"]]}
    assert (
        gaps(
            plan_of(tiny(grid=GRID, report={"columns": "data.poison", **report}), store).snapshot,
            tmp_path / "tiny.yaml",
        )
        == []
    )


def test_a_plan_of_one_sweep_or_several_warns_of_gaps(opsctl: Opsctl, tmp_path: Path) -> None:
    """A plan goes on, since `--set` may have left out what a claim names."""
    one = write(tmp_path, tiny(grid=GRID, report={"claims": [SOUND]}))
    other = write(tmp_path, tiny(grid=GRID, name="other"))
    few = ("--set", "data.poison=[ops]")
    code, out, _ = opsctl("plan", one, *few)
    assert (code, "claim 'so it is': no data.poison=clean; there is 'ops'" in " ".join(out.split())) == (
        0,
        True,
    )
    code, out, _ = opsctl("plan", one, other, *few)
    assert (code, "tiny: claim 'so it is': no data.poison=clean" in " ".join(out.split())) == (0, True)
    assert "claim" not in opsctl("plan", one, other)[1]
