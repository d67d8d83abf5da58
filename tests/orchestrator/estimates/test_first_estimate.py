"""The estimate of a sweep without finished trials, compared with the recorded times of the sweeps in results/.

Those ran on two cores of a busy AMD EPYC, one thread per trial, in bfloat16. Nothing is timed here.
"""

from __future__ import annotations

import json
import statistics
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from orchestrator.estimates.cost import Costs
from orchestrator.estimates.estimate import SWEEP_SECONDS, Resources, estimate
from orchestrator.estimates.rates import Rates
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.sweep_file import load
from poisons import Store
from trainers.gpu_profile import Speed

ROOT = Path(__file__).parents[3]
# Operations: half of what the two cores reach in ResNet-18, benchmarks/README.md. Values and kernels were not
# measured there: these are what `training_speed` finds for a thread of another two-core machine.
EPYC = Speed(0.24e12, values=6e8, kernels=2.4e4)
TWO_CORES = Resources(slots=2, gpus=0.0, cpus=1.0)
NEAR = 3.0
SWEEPS = [*sorted((ROOT / "sweeps" / "digits").glob("*.yaml")), ROOT / "sweeps" / "cifar10_small.yaml"]


@cache
def recorded() -> dict[str, Any]:
    """The sweeps of the documents by name."""
    documents = [
        json.loads((ROOT / "results" / name).read_text()) for name in ("digits.json", "cifar10_small.json")
    ]
    return {sweep["name"]: sweep for document in documents for sweep in document["sweeps"]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("first") / "store")


@pytest.fixture(scope="module")
def costs(store: Store) -> Costs:
    found = Costs.usual(store)
    found.rates = Rates("cpu, 1 thread", "of the record", EPYC, "bfloat16")
    return found


def planned(file: Path, store: Store) -> Plan:
    return make_plan(load(file, ()), store, str(file))


def near(found: float, taken: float) -> bool:
    return taken / NEAR < found < taken * NEAR


@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_estimates_of_trials_are_near_their_recorded_times(file: Path, store: Store, costs: Costs) -> None:
    plan = planned(file, store)
    taken = {tuple(t["labels"].values()): t["seconds"] for t in recorded()[plan.sweep.name]["trials"]}
    seconds = {tuple(task.point.labels.values()): costs.trial_seconds(task.trial) for task in plan.tasks}
    assert seconds.keys() == taken.keys()
    assert near(sum(seconds.values()), sum(taken.values())), (sum(seconds.values()), sum(taken.values()))
    within = [near(seconds[labels], taken[labels]) for labels in taken]
    assert sum(within) > 0.6 * len(within), "equal trials took 5 to 12 s, depending on the load"


PROBES = sorted((ROOT / "sweeps" / "probes").glob("*.yaml"))


@pytest.mark.parametrize("file", PROBES, ids=lambda file: file.stem)
def test_estimates_of_probes_are_near_their_recorded_times(file: Path, store: Store, costs: Costs) -> None:
    """Compared with those of the trainings that they examine, on another machine: half of all within a factor
    of two."""
    document = json.loads((ROOT / "results" / "probes_digits.json").read_text())
    plan = planned(file, store)
    (sweep,) = (one for one in document["sweeps"] if one["name"] == plan.sweep.name)
    taken = {tuple(trial["labels"].values()): trial for trial in sweep["trials"]}
    assert len(taken) == len(plan.tasks)
    found = []
    for task in plan.tasks:
        trial, training = taken[tuple(task.point.labels.values())], costs.trial_seconds(task.trial)
        for planned_probe in task.missing_probes:
            measured = trial["findings"][planned_probe.name]["seconds"] / trial["seconds"]
            found.append(costs.probe_seconds(task.trial, planned_probe) / training / measured)
    assert 0.5 < statistics.median(found) < 2, found


@pytest.mark.parametrize(
    ("file", "words", "minutes"),
    [
        ("quickstart.yaml", "took 1 min 51 s on two cores", 1.85),
        ("cifar10_small.yaml", "took 34 minutes on the two cores", 34),
    ],
)
def test_a_sweep_takes_about_as_long_as_the_readme_says(
    file: str, words: str, minutes: float, store: Store, costs: Costs
) -> None:
    assert words in " ".join((ROOT / "README.md").read_text().split())
    found = estimate(planned(ROOT / "sweeps" / file, store), costs, TWO_CORES)
    assert near(found.wall, 60 * minutes), found.wall


def test_estimates_of_crafting_are_near_the_recorded_times(store: Store, costs: Costs) -> None:
    document = json.loads((ROOT / "results" / "digits.json").read_text())
    taken = {data["name"]: data["seconds"] for data in document["data"]}
    plan = planned(ROOT / "sweeps" / "digits" / "table2.yaml", store)
    assert {spec.name for spec in plan.data} <= taken.keys()
    found = {spec.name: costs.data_seconds(spec) for spec in plan.data}
    (noise,) = (name for name in found if "-em-" in name)
    assert near(found[noise], taken[noise])
    assert near(sum(found.values()), sum(taken[name] for name in found))


def test_all_of_the_digits_take_about_half_an_hour(store: Store, costs: Costs) -> None:
    assert "half an hour of two processors" in (ROOT / "README.md").read_text()
    found: dict[str, float] = {}
    for file in SWEEPS[:-1]:
        plan = planned(file, store)
        found |= {task.key: costs.task_seconds(task) for task in plan.missing}
        found |= {spec.name: costs.data_seconds(spec) for spec in plan.to_build}
    assert near(sum(found.values()) / TWO_CORES.slots + len(SWEEPS[:-1]) * SWEEP_SECONDS, 1800)
