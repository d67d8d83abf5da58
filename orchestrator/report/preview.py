"""What the report of a sweep is going to lack, known before anything runs."""

from __future__ import annotations

from pathlib import Path

from orchestrator.monitoring.sweep_status import SweepStatus
from orchestrator.planning.snapshot import Snapshot
from orchestrator.report.sheet import make_sheet


def gaps(snapshot: Snapshot, file: Path) -> list[str]:
    """One line each: the claims, comparisons and published figures of the sweep `file` that its report cannot
    show, because they name what the grid or the published tables do not have."""
    sheet = make_sheet(SweepStatus(snapshot, {}, {}, frozenset()), file, strict=False)
    return [*sheet.notes, *(f"claim {one.says!r}: {one.why}" for one in sheet.claims if one.why)]
