"""A probe describes how its findings are shown, and the page follows: here is one that the code has never seen."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from orchestrator import report
from orchestrator.execution.trial import run_trial
from orchestrator.monitoring.sweep_status import read_status
from orchestrator.planning.snapshot import kept_snapshot, version_of
from orchestrator.planning.spec import RunSpec
from orchestrator.report.html import load_document, page_of
from orchestrator.report.html.heat_maps import LEVELS, linear_levels
from orchestrator.storage.ledger import Ledger
from poisons import Store
from tests.conftest import CPU, finish, start
from tests.orchestrator.sweeps import plan_of, tiny, write
from trainers.probe import Finding, Probe, Subject
from trainers.probe_view import PERCENT, HeatMap, ImageMaps, Mark, ProbeView

SAYS = "How much the network hesitates & why."


class Hesitation(Probe, kind="hesitation"):
    """Numbers that are known beforehand."""

    shown: Literal["map", "images"] = "map"

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("doubt", "longest", "plain_acc", "at")

    def view(self, sets: Sequence[str]) -> ProbeView:
        heat_map = HeatMap(
            kind="heat_map",
            shows="energy",
            x="across",
            y="down",
            values="energy",
            scale="linear",
            metrics=["longest"],
        )
        images = ImageMaps(kind="image_maps", shows="attention", images="seen")
        return ProbeView(
            says=SAYS,
            units={"doubt": PERCENT, "longest": "bits", "margin": "bits", "sure": PERCENT},
            curves=["margin", "sure"],
            first_epoch=0,
            along="heart-beats",
            marks=[
                Mark(
                    curve="margin",
                    epoch="at",
                    value="longest",
                    filled=False,
                    says="longest: {value} in {epoch}",
                ),
                Mark(curve="sure", epoch="at", filled=True, says="sure by {value}"),
            ],
            picture=heat_map if self.shown == "map" else images,
        )

    def run(self, subject: Subject) -> Finding:
        pixels = subject.train.x[0].movedim(0, -1).tolist()
        response = [[0.0, 1.0, 0.5], [0.0, 0.25, 3.0]]
        return Finding(
            metrics={"doubt": 0.25, "longest": 12.5, "plain_acc": 0.5, "at": 2.0},
            curves={"margin": [10.0, 11.0, 12.5], "sure": [0.1, 0.2, 0.75], "hidden": [1.0, 1.0, 1.0]},
            fields={
                "across": [-1.0, 0.0, 1.0],
                "down": [0.0, 5.0],
                "energy": [[-2.0, 0.0, 1.0], [1.0, 2.0, 7.0]],
                "seen": [{"label": 3, "pixels": pixels, "response": response}],
            },
        )


del Probe.registry["hesitation"]  # a test's own: in no table and no golden file
SWEEP = tiny(
    probes=["hesitation", {"kind": "hesitation", "name": "looks", "shown": "images"}],
    report={"rows": [], "columns": "data.poison"},
)


@pytest.fixture
def run(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a sweep with this probe, which was planned and run where the probe is known."""
    file = write(tmp_path, SWEEP)
    with monkeypatch.context() as known:
        known.setitem(Probe.registry, "hesitation", Hesitation)
        plan = plan_of(SWEEP, store)
        for task in plan.tasks:
            run_trial(task.trial, store, device=CPU, probes=task.probes, run=RunSpec(keep="none"))
        plan.snapshot.keep(Ledger(store.where).storage, version_of(file) or "")
    assert "hesitation" not in Probe.registry
    return file


def test_a_new_probe_is_on_the_page_as_it_describes_itself(run: Path, store: Store, tmp_path: Path) -> None:
    """Also in processes without the probe's code, and from the document alone."""
    page, document = tmp_path / "page.html", tmp_path / "page.json"
    for out in (page, document):
        code, said = finish(start("report", run, "--html", out, store=store.root))
        assert code == 0, said
    again = page_of(load_document(document))
    for text in (page.read_text(), again):
        titles = set(re.findall(r"<title>([^<]*)</title>", text))
        labels = re.findall(r'aria-label="([^"]*)"', text)
        assert text.count(SAYS.replace("&", "&amp;")) == 2, "once for each of the two"
        assert "Hesitation: figures" in text
        assert "Looks (hesitation): figures" in text
        assert "tiny: margin, bits, at the end: clean 12.50, ops 12.50" in labels
        assert "tiny: sure, %, at the end: clean 75.00, ops 75.00" in labels
        assert not any("hidden" in label for label in labels)
        assert "heart-beats" in text, "on the axes"
        assert {"longest: 12.50 bits in 2", "sure by 75.00 %"} <= titles
        assert {"Energy of clean: longest 12.5", "Energy of ops: longest 12.5"} <= set(labels)
        assert text.count('alt="attention, largest at row 1, column 2"') == 2, "once for each cell"
        assert text.count('alt="an image of class 3"') == 2


def test_its_units_are_those_of_every_report(run: Path, store: Store) -> None:
    ledger = Ledger(store.where)
    snapshot = kept_snapshot(ledger.storage, version_of(run) or "")
    assert snapshot is not None
    sheet = report.make_sheet(read_status(snapshot, ledger), run)
    table = sheet.probes[0]
    cells = {column: report.text(table, "clean", column) for column in ("doubt", "longest", "plain_acc")}
    assert cells == {"doubt": "25.00 ± 0.00", "longest": "12.50 ± 0.00", "plain_acc": "0.50 ± 0.00"}
    assert table.units["test/clean_acc"] == PERCENT
    assert table.cells["clean", "longest"].unit == "bits"
    assert "accuracies in %" in report.caption(table)


@pytest.mark.parametrize(
    "maps",
    [[[[0.0, 0.0], [0.0, 0.0]]], [[[-5.0, 3.0]], [[1.0, 2.0]]], [[[1e-9, 1e9]]], [[[7.0, 7.0 + 1e-12]]]],
    ids=str,
)
def test_the_levels_of_a_linear_scale_rise(maps: list[Any]) -> None:
    levels = linear_levels([np.array(one) for one in maps])
    assert len(levels) == LEVELS
    assert all(low < high for low, high in pairwise(levels))
