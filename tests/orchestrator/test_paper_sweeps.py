"""The sweeps behind the paper's tables on pixels stand for the trials that the tables have."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.expansion import Point, expand
from orchestrator.plan import make_plan
from orchestrator.report import tabulate
from orchestrator.results import Ledger
from orchestrator.sweep_file import load
from orchestrator.trial import run_trial
from poisons import Store
from poisons.ops import Ops
from tests.conftest import CPU, ROOT


def points(name: str) -> tuple[Point, ...]:
    file = ROOT / "sweeps" / f"{name}.yaml"
    return expand(load(file, ("data.source=digits",)), str(file))


@pytest.mark.parametrize(
    ("name", "trials", "data_sets"),
    [
        ("multipixel", 4 * 5 * 3, 5),
        ("position_color", 4 * 3, 4),
        ("random_pixel", 10, 10),
        ("search_fraction", (3 + 2) * 3, 5),
    ],
)
def test_a_tables_trials_are_all_there_and_all_different(name: str, trials: int, data_sets: int) -> None:
    found = [point.trial for point in points(name)]
    pinned = [trial.model_copy(update={"data": trial.data.pinned()}) for trial in found]
    assert len({trial.key for trial in pinned}) == len(found) == trials
    assert len({trial.data.key for trial in pinned}) == data_sets
    assert {trial.data.source.kind for trial in found} == {"digits"}
    assert {(t.train.architecture.kind, t.train.epochs, t.train.batch_size) for t in found} == {
        ("resnet18", 200, 128)
    }


def poisons(name: str) -> dict[str, Any]:
    return {point.name: point.trial.data.poison for point in points(name)}


def test_multipixel_takes_pixels_as_released_under_four_strategies() -> None:
    chains = poisons("multipixel")
    for pixels in range(1, 5):
        assert chains[f"train=Mixup, data.poison={pixels}, seed=0"] == (Ops(pixels=pixels),)
    recipes = {p.labels["train"]: [a.kind for a in p.trial.train.augmentations] for p in points("multipixel")}
    assert recipes == {
        "Standard": ["flip_crop"],
        "Mixup": ["flip_crop", "mixup"],
        "Cutout": ["flip_crop", "cutout"],
        "RandAugment": ["flip_crop", "uda_augment"],
    }


def test_random_pixels_are_drawn_anew_and_trained_alike() -> None:
    found = points("random_pixel")
    assert [point.trial.data.seed for point in found] == list(range(10))
    assert {point.trial.seed for point in found} == {0}


def test_noise_needs_images_outside_the_fraction() -> None:
    found = {(ops.search_fraction, str(ops.upload_noise)) for (ops,) in poisons("search_fraction").values()}
    assert found == {(0.01, "None"), (0.1, "None"), (1.0, "None"), (0.01, "8/255"), (0.1, "8/255")}


SMOKE = (
    "data.limit=60",
    "train.architecture=lenet5",
    "train.epochs=1",
    "evaluation.limit=20",
    "seed=[0]",
)


@pytest.mark.parametrize("name", ["multipixel", "position_color", "random_pixel", "search_fraction"])
def test_a_table_is_filled_at_smoke_size(name: str, store: Store) -> None:
    settings = [one for one in SMOKE if one != "seed=[0]" or "seed=0" in points(name)[0].name.split(", ")]
    plan = make_plan(load(ROOT / "sweeps" / f"{name}.yaml", ("data.source=digits", *settings)), store, name)
    for task in plan.tasks:
        run_trial(task.trial, store, device=CPU)
    table = tabulate(plan, Ledger(store.root))
    assert all(cell.mean is not None for cell in table.cells.values())
    assert {cell.trials for cell in table.cells.values()} == {10 if name == "random_pixel" else 1}
