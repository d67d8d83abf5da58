"""The sweeps of the paper's tables and figures consist of the paper's trials, with its recipe, and fill every cell."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.execution.trial import run_trial
from orchestrator.monitoring.sweep_status import read_status
from orchestrator.planning.batch import Batch
from orchestrator.planning.plan import Plan, Task, make_plan
from orchestrator.planning.spec import RunSpec
from orchestrator.planning.sweep_file import load
from orchestrator.report import make_sheet
from orchestrator.report.reference import find
from orchestrator.report.table import axes_of
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.records import Result
from poisons import Store
from poisons.methods.ops import Ops
from tests.conftest import CPU, ROOT
from tests.photographs import photographs

FOLDER = ROOT / "sweeps" / "paper"
FILES = sorted(FOLDER.glob("*.yaml"))
CELLS = {  # rows x columns as trained, seeds (of a training, or of a draw), data sets that are trained on
    "figure1": (1 * 3, 3, 3),
    "figure3": (1 * 3, 3, 3),
    "figure4": (1 * 3, 3, 3),
    "table1": (1 * 3, 3, 3),
    "table2": (6 * 3, 3, 3),
    "table3": (6 * 1, 3, 1),
    "table4": (2 * 2, 3, 2),
    "table5": (9 * 4, 3, 4),
    "table6": (4 * 5, 3, 5),
    "table_a": (4, 3, 4),
    "table_b": (1, 10, 10),
    "table_c": (3 + 2, 3, 5),
    "table_d": (3 * 3, 3, 3),
}
UNIQUE = 18 + 6 + 4 + 33 + 2 + 10 + 4 + 9  # Tables 2, 3, 4, 5 (new), A, B, C, D: 86 single-seed trainings


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Settings that reduce Table 4 to three classes of small photographs."""
    root = photographs(tmp_path_factory.mktemp("photographs"), classes=3, train=4, val=2)
    return (f"data.source.root={root}", "data.source.classes=3")


@pytest.fixture(scope="module")
def plans(imagenet: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plan]:
    """The plan of every file, by its name."""
    store = Store(tmp_path_factory.mktemp("planned"))
    settings = {"table4": imagenet}
    return {f.stem: make_plan(load(f, settings.get(f.stem, ())), store, f.stem) for f in FILES}


def test_every_sweep_of_the_paper_is_tested(plans: dict[str, Plan]) -> None:
    assert set(plans) == set(CELLS)
    assert {name: plan.sweep.name for name, plan in plans.items()} == {
        name: f"paper_{name}" for name in CELLS
    }


@pytest.mark.parametrize("name", CELLS)
def test_the_trials_are_complete_and_distinct(plans: dict[str, Plan], name: str) -> None:
    cells, seeds, data_sets = CELLS[name]
    tasks = plans[name].tasks
    assert len({task.key for task in tasks}) == len(tasks) == cells * seeds
    assert len({task.trial.data.key for task in tasks}) == data_sets
    drawn = {(task.trial.seed, task.trial.data.seed) for task in tasks}
    assert drawn == ({(0, i) for i in range(10)} if name == "table_b" else {(i, 0) for i in range(3)})


@pytest.mark.parametrize("name", CELLS)
def test_every_published_number_has_a_cell(plans: dict[str, Plan], name: str, store: Store) -> None:
    """And every cell has a published number where the paper has a table."""
    snapshot = plans[name].snapshot
    sheet = make_sheet(read_status(snapshot, Ledger(store.where)), FOLDER / f"{name}.yaml")
    assert sheet.notes == ()
    assert (sheet.reference is None) is name.startswith("figure")
    if sheet.reference is not None:
        beside = [cell.published for cell in sheet.table.cells.values()]
        assert None not in beside
        whole = len(find(f"ops_paper/{name}", FOLDER / f"{name}.yaml").cells)
        assert len(beside) == whole - (name == "table_c"), "at 100 % no image is left for noise"
    assert sheet.claims, "every sweep has claims"
    assert [claim.why for claim in sheet.claims] == [None] * len(sheet.claims)


def test_the_recipe_is_that_of_the_paper(plans: dict[str, Plan]) -> None:
    tasks = [task for plan in plans.values() for task in plan.tasks]
    assert {task.trial.train.epochs for task in tasks} == {200}
    assert {task.trial.data.source.kind for task in plans["table4"].tasks} == {"image_folder"}
    others = [task for name, plan in plans.items() if name != "table4" for task in plan.tasks]
    assert {task.trial.data.source.kind for task in others} == {"cifar10"}
    assert {recipe(task) for task in tasks} == {
        ("lenet5", "sgd", 0.1, 128),
        ("cvt_7_4", "adamw", 5e-4, 128),
        ("cct_7_3x1", "adamw", 5e-4, 128),
        ("densenet121", "sgd", 0.1, 128),
        ("resnet18", "sgd", 0.1, 128),
        ("resnet50", "sgd", 0.1, 128),
        ("wide_resnet", "sgd", 0.1, 64),  # WRN-28-10 of Table 2
        ("wide_resnet", "sgd", 0.1, 128),  # the widths of Table 3
    }
    budgets = {str(task.trial.train.defense.budget.eps) for task in plans["table_d"].tasks}  # type: ignore[attr-defined]
    assert budgets == {"1/2", "1", "2"}


def recipe(task: Task) -> tuple[str, str, float, int]:
    train = task.trial.train
    return train.architecture.kind, train.optimizer.kind, train.optimizer.lr, train.batch_size


def test_strategies_are_those_of_the_paper(plans: dict[str, Plan]) -> None:
    def strategies(name: str) -> dict[str, str]:
        trains = {task.point.labels["train"]: task.trial.train for task in plans[name].tasks}
        return {
            label: " ".join([t.defense.kind, *(a.kind for a in t.augmentations)])
            for label, t in trains.items()
        }

    four = {
        "Standard": "erm flip_crop",
        "Mixup": "erm flip_crop mixup",
        "Cutout": "erm flip_crop cutout",
        "RandAugment": "erm flip_crop uda_augment",
    }
    assert strategies("table6") == four
    assert strategies("table5") == four | {
        "RandAugment + Cutout": "erm flip_crop uda_augment cutout",
        "AT": "pgd_at flip_crop",
        "AT + Mixup": "pgd_at flip_crop mixup",
        "AT + Cutout": "pgd_at flip_crop cutout",
        "AT + RandAugment": "pgd_at flip_crop uda_augment",
    }


def test_pixels_are_those_of_the_paper(plans: dict[str, Plan]) -> None:
    chains: dict[str, Any] = {
        t.point.labels["data.poison"]: t.trial.data.poison for t in plans["table6"].tasks
    }
    for pixels in range(1, 5):
        assert chains[str(pixels)] == (Ops(pixels=pixels),)
    searched: list[Any] = [task.trial.data.poison[0] for task in plans["table_c"].tasks]
    found = {(ops.search_fraction, str(ops.upload_noise)) for ops in searched}
    assert found == {(0.01, "None"), (0.1, "None"), (1.0, "None"), (0.01, "8/255"), (0.1, "8/255")}


# -- together


def test_all_sweeps_together_are_the_trainings_of_the_paper_and_twelve_of_table_6(
    plans: dict[str, Plan],
) -> None:
    """86 does not count Table 6, most of which is in Table 5: its two to four pixels add 12."""
    batch = Batch(tuple(plans.values()))
    assert batch.points == sum(cells * seeds for cells, seeds, _ in CELLS.values()) == 352
    assert batch.single_seed == UNIQUE + 12 == 98
    assert len(batch.tasks) == batch.points - batch.shared == 3 * (98 - 10) + 10 == 274
    without = Batch(tuple(plan for name, plan in plans.items() if name != "table6"))
    assert without.single_seed == UNIQUE == 86
    more = {task.key: task for task in batch.tasks}.keys() - {task.key for task in without.tasks}
    (labels,) = [
        {
            (t.point.labels["train"], t.point.labels["data.poison"])
            for t in plans["table6"].tasks
            if t.key in more
        }
    ]
    assert labels == {(s, p) for s in ("Standard", "Mixup", "Cutout", "RandAugment") for p in "234"}
    assert len(more) == 12 * 3


def test_a_training_shared_by_several_sweeps_is_one_trial(plans: dict[str, Plan]) -> None:
    """ResNet-18 without a strategy on the paper's pixel is in Tables 1, 2, 5, 6, A and C, and in the figures."""
    where: dict[str, list[str]] = {}
    for name, plan in plans.items():
        for task in plan.tasks:
            where.setdefault(task.key, []).append(name)
    ops = next(t for t in plans["figure1"].tasks if t.point.name == "data.poison=ops, seed=0")
    tables = ["table1", "table2", "table5", "table6", "table_a", "table_c"]
    assert where[ops.key] == ["figure1", "figure3", "figure4", *tables]
    kinds = {
        "clean and test images of CIFAR-10": 2,
        "em, ops, both": 3,
        "two to four pixels": 3,
        "clean, test and ops of ImageNet": 3,
        "place, colour": 2,
        "random pixels": 10,
        "shares of the images, the others noisy or not": 4,
        "em and ops on other images": 2,
    }
    names = [spec.name for spec in Batch(tuple(plans.values())).whole.to_build]
    assert len(set(names)) == len(names) == sum(kinds.values())


# -- filled, at smoke size

SMOKE = {"data.source": "digits", "data.limit": 40, "evaluation.limit": 20, "train.epochs": 1}
EM = "{kind: em, generator: {kind: resnet18, width: 4}, steps: 1, train_steps: 1, max_rounds: 1}"
LENET = {"train.architecture": "lenet5"}
NARROW = {"train.architecture": "{kind: resnet18, width: 4}"}
THREE = {"data.poison": f"{{clean: clean, em: {EM}, ops: ops}}"}
SETS = {"probes.0.sets.em.poison": EM, "probes.0.sets.shuffled_em.poison": EM}


def smoke(name: str, store: Store, changes: dict[str, str]) -> Plan:
    """The plan of a file at smoke size, with one seed unless `changes` sets others."""
    values = {**SMOKE, **({} if name == "table_b" else {"seed": "[0]"}), **changes}
    settings = tuple(f"{path}={value}" for path, value in values.items())
    return make_plan(load(FOLDER / f"{name}.yaml", settings), store, name)


def run(tasks: Iterable[Task], store: Store) -> list[Result]:
    keep = RunSpec(keep="weights")
    return [run_trial(task.trial, store, device=CPU, probes=task.probes, run=keep) for task in tasks]


def filled(name: str, store: Store, changes: dict[str, str]) -> list[Result]:
    """The records of a sweep's trials, after a check that every cell has its number and every claim its verdict."""
    plan = smoke(name, store, changes)
    records = run(plan.tasks, store)
    sheet = make_sheet(read_status(plan.snapshot, Ledger(store.where)), FOLDER / f"{name}.yaml")
    cells = list(sheet.table.cells.values())
    assert all(cell.mean is not None and cell.seeds == cell.trials for cell in cells)
    assert all(0 <= (cell.mean or 0) <= 1 for cell in cells if cell.metric.endswith("acc"))
    assert {claim.verdict for claim in sheet.claims} <= {"holds", "does not hold"}
    measured = (
        len(plan.snapshot.report.get("metrics") or {}) if "metric" in str(axes_of(plan.snapshot)) else 1
    )
    assert sum(cell.trials for cell in cells) == len(records) * max(measured, 1)
    return records


@pytest.mark.parametrize(
    ("name", "changes", "trials"),
    [
        ("table6", LENET, 20),
        ("table_a", LENET, 4),
        ("table_b", {**LENET, "data.seed": "[0, 1]"}, 2),
        ("table_c", LENET, 5),
        ("table3", {"train.architecture.width": "[1, 2]", "train.architecture.depth": "10"}, 2),
    ],
)
def test_every_cell_of_a_table_of_pixels_gets_its_number(
    name: str, changes: dict[str, str], trials: int, store: Store
) -> None:
    if name == "table3":  # its claims need all widths
        changes = {**changes, "report.claims": "[]"}
    assert len(filled(name, store, changes)) == trials


def test_every_cell_of_the_table_of_photographs_gets_its_number(store: Store, tmp_path: Path) -> None:
    root = photographs(tmp_path / "photographs", classes=2, train=3, val=1)
    source = f"{{kind: image_folder, root: {root}, classes: 2, resize: 256, size: 224}}"
    changes = {"data.source": source, "data.limit": "null", "train.architecture.width": "4"}
    records = filled("table4", store, changes)
    assert [r["spec"]["train"]["architecture"]["kind"] for r in records] == ["resnet18"] * 2 + [
        "resnet50"
    ] * 2
    assert {r["spec"]["train"]["augmentations"][0]["pad"] for r in records} == {28}


def test_table_1_and_the_figures_use_the_same_networks(store: Store) -> None:
    """Figure 4 watches every epoch and keeps the weights that the others need: nothing is trained twice."""
    probes = {
        "figure4": {},
        "figure1": {"probes.0.limit": "8", "probes.0.pictured": "2"},
        "figure3": {"probes.0.points": "3", "probes.0.limit": "20"},
        "table1": SETS,
    }
    for name, changes in probes.items():
        plan = smoke(name, store, {**NARROW, **THREE, **changes})
        assert [task.trains for task in plan.tasks] == [name == "figure4"] * 3
        assert len(filled(name, store, {**NARROW, **THREE, **changes})) == 3


@pytest.mark.slow
def test_every_cell_of_the_table_of_architectures_gets_its_number(store: Store) -> None:
    records = filled("table2", store, {**THREE, "data.limit": "20", "evaluation.limit": "10"})
    sizes = {record["spec"]["train"]["architecture"]["kind"]: record["parameters"] for record in records}
    assert len(records) == 18
    assert sizes["cct_7_3x1"] == 3_760_139
    assert sizes["wide_resnet"] == 36_489_290


@pytest.mark.slow
def test_every_cell_of_the_table_of_strategies_gets_its_numbers_including_robust_accuracies(
    store: Store,
) -> None:
    poisons = f"{{clean: clean, em: {EM}, ops: ops, CIFAR-10-S: [{EM}, ops]}}"
    robust = {"evaluation": "{attacks: [pgd], attack_limit: 20, limit: 20}"}
    records = filled("table5", store, {**NARROW, **robust, "data.poison": poisons})
    assert len(records) == 36
    assert all("test/pgd20_Linf_8_255_acc" in record["metrics"] for record in records)


@pytest.mark.slow
def test_every_cell_of_the_table_of_budgets_gets_its_number(store: Store) -> None:
    assert len(filled("table_d", store, {**NARROW, **THREE})) == 9
