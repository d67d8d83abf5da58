"""The trial that the paper's tables have in common, a ResNet-18 on one pixel, is one trial: it is trained once."""

from __future__ import annotations

from functools import cache

from orchestrator.planning.expansion import expand
from orchestrator.planning.sweep_file import load
from orchestrator.storage.trial_spec import TrialSpec
from poisons.methods.ops import Ops
from poisons.sources.base import Source
from tests.conftest import ROOT
from trainers import TrainSpec

PAPER = ROOT / "sweeps" / "paper"
HAVE_IT = {"figure1", "figure3", "figure4", "table1", "table2", "table5", "table6", "table_a", "table_c"}


@cache
def pinned(source: Source) -> Source:
    return source.pinned()


def cells(name: str) -> list[TrialSpec]:
    """The trials of a table or figure that are the paper's standard training on images with one pixel each."""
    file = PAPER / f"{name}.yaml"
    trials = [point.trial for point in expand(load(file, ("data.source=digits",)), str(file))]
    found = [trial.model_copy(update={"data": trial.data.pinned(pinned)}) for trial in trials]
    return [trial for trial in found if trial.data.poison == (Ops(),) and trial.train == TrainSpec()]


def test_the_cell_shared_by_tables_and_figures_has_one_key_per_seed() -> None:
    keys = {name: {trial.seed: trial.key for trial in cells(name)} for name in HAVE_IT}
    assert keys["table2"].keys() == {0, 1, 2}
    assert len(set(keys["table2"].values())) == 3
    assert all(found == keys["table2"] for found in keys.values()), keys


def test_no_other_table_contains_the_shared_cell() -> None:
    others = {file.stem for file in PAPER.glob("*.yaml")} - HAVE_IT
    assert others == {"table3", "table4", "table_b", "table_d"}
    assert [name for name in sorted(others - {"table4"}) if cells(name)] == []  # 4 is of larger images
