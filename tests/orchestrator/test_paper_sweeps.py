"""The sweeps behind the paper's tables on pixels stand for the trials that the tables have."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.depots.results import Ledger, Record
from orchestrator.expansion import Point, expand
from orchestrator.plan import make_plan
from orchestrator.report import tabulate
from orchestrator.standing import look
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


SMOKE = {"data.source": "digits", "data.limit": 40, "evaluation.limit": 20, "train.epochs": 1}
EM = "{kind: em, generator: {kind: resnet18, width: 4}, steps: 1, train_steps: 1, max_rounds: 1}"
LENET = {"train.architecture": "lenet5"}
NARROW = {"train.architecture": "{kind: resnet18, width: 8}"}


def filled(name: str, store: Store, changes: dict[str, str]) -> list[Record]:
    """The records of a table's trials, run one after the other at smoke size; every cell has its number."""
    settings = tuple(f"{path}={value}" for path, value in {**SMOKE, **changes}.items())
    plan = make_plan(load(ROOT / "sweeps" / f"{name}.yaml", settings), store, name)
    records = [run_trial(task.trial, store, device=CPU) for task in plan.tasks]
    cells = tabulate(look(plan.outline, Ledger(store.where))).cells.values()
    assert all(cell.mean is not None and 0 <= cell.mean <= 1 for cell in cells)
    assert sum(cell.trials for cell in cells) == len(records)
    return records


@pytest.mark.parametrize(
    ("name", "seeds", "trials"),
    [
        ("multipixel", {"seed": "[0]"}, 20),
        ("position_color", {"seed": "[0]"}, 4),
        ("random_pixel", {"data.seed": "[0, 1]"}, 2),
        ("search_fraction", {"seed": "[0]"}, 5),
    ],
)
def test_a_table_of_pixels_is_filled(name: str, seeds: dict[str, str], trials: int, store: Store) -> None:
    assert len(filled(name, store, {**LENET, **seeds})) == trials


@pytest.mark.slow
def test_the_table_of_architectures_is_filled(store: Store) -> None:
    records = filled("architectures", store, {"data.poison": f"[clean, {EM}, ops]", "seed": "[0]"})
    sizes = {record["spec"]["train"]["architecture"]["kind"]: record["parameters"] for record in records}
    assert len(records) == 18
    assert sizes["cct_7_3x1"] == 3_760_139
    assert sizes["wide_resnet"] == 36_489_290


@pytest.mark.slow
def test_the_table_of_strategies_is_filled_with_robust_accuracies_too(store: Store) -> None:
    poisons = f"{{clean: clean, em: {EM}, ops: ops, CIFAR-10-S: [{EM}, ops]}}"
    records = filled("strategies", store, {**NARROW, "data.poison": poisons, "seed": "[0]"})
    assert len(records) == 36
    assert all("test/pgd20_Linf_8_255_acc" in record["metrics"] for record in records)


@pytest.mark.slow
def test_the_table_of_budgets_is_filled(store: Store) -> None:
    changes = {**NARROW, "data.poison": f"[clean, ops, {EM}]", "seed": "[0]"}
    assert len(filled("l2_budgets", store, changes)) == 9
