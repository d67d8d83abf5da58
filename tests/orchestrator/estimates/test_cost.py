"""Costs are estimated from a given rate, finished work or a measurement, and an estimate never fails."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from orchestrator.estimates import cost
from orchestrator.estimates.cost import START_SECONDS, Costs
from orchestrator.estimates.duration import duration, hours
from orchestrator.estimates.estimate import (
    COMPILE_SECONDS,
    SWEEP_SECONDS,
    Resources,
    best_costs,
    estimate,
    estimate_on_this_machine,
    lines,
    this_machine,
)
from orchestrator.estimates.packing import ShareStore, shape_key
from orchestrator.estimates.rates import BATCH_SECONDS, Rates, Run
from orchestrator.execution.trial import run_trial
from orchestrator.planning.extents import USUAL, Extents
from orchestrator.planning.plan import Plan
from orchestrator.planning.spec import RunSpec
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.locations import open_storage
from orchestrator.storage.trial_spec import TrialSpec
from poisons import DataSpec, Poison, Store
from poisons.sources.base import Extent
from poisons.sources.digits import Digits
from poisons.sources.torchvision_sets import Cifar10, Svhn
from tests.conftest import CPU, Opsctl
from tests.orchestrator.sweeps import plan_of, tiny, write
from trainers import TrainSpec
from trainers.families import Defense
from trainers.flops import Work, network_flops, trial_work
from trainers.gpu_profile import Speed
from trainers.restoration import Restoration

CORE = Resources(slots=2, gpus=0.0, cpus=1.0)


def test_a_given_rate_determines_the_seconds(store: Store) -> None:
    task = plan_of(tiny(), store).tasks[0]
    network = network_flops(task.trial.train.architecture, shape=(3, 32, 32), num_classes=10)
    work = trial_work(task.trial, network, train=60, test=355)
    wanted = START_SECONDS + work.flops / 3e10 + BATCH_SECONDS * work.batches
    assert Costs.given(store, 0.03).trial_seconds(task.trial) == pytest.approx(wanted)


def test_similar_trials_take_as_long_as_a_finished_one(store: Store) -> None:
    plan = plan_of(tiny(), store)
    assert Costs.learned(store, place=CPU) is None
    record = run_trial(plan.tasks[0].trial, store, device=CPU)
    costs = Costs.learned(store, place=CPU, threads=record["threads"])
    assert costs is not None
    words = f"learned from 1 trial on cpu, {record['threads']} thread"
    assert costs.rates.origin.startswith(words)
    assert costs.trial_seconds(plan.tasks[2].trial) == pytest.approx(
        record["seconds"] + START_SECONDS, rel=0.01
    )
    longer = plan.tasks[2].trial.model_copy(
        update={"train": plan.tasks[2].trial.train.model_copy(update={"epochs": 200})}
    )
    work, more = (costs.trial_seconds(trial) - START_SECONDS for trial in (plan.tasks[2].trial, longer))
    assert more > 50 * work, "200 epochs, not 2"


def run(rate: float, device: str = "gpu", precision: str = "bfloat16", **train: Any) -> Run:
    spec = TrainSpec.parse(train, "test")
    return Run(spec, device, precision, Work(rate, 0), 1.0)


def test_a_rate_is_that_of_the_nearest_group() -> None:
    rates = Rates.learned(
        [
            run(9e12),
            run(11e12, epochs=3),
            run(2e12, architecture={"kind": "resnet18", "width": 16}),
            run(30e12, architecture="wide_resnet"),
            run(1e12, precision="float32"),
            run(5e9, device="cpu, 1 thread"),
        ],
        "gpu",
    )
    assert rates is not None
    assert rates.origin == "learned from 5 trials on gpu"

    def of(**train: Any) -> float:
        return rates.of(TrainSpec.parse(train, "test"))

    assert of() == 10e12, "the median of similar trials, with the precision of `auto` on this machine"
    assert of(architecture={"kind": "resnet18", "width": 16}) == 2e12
    assert of(architecture={"kind": "resnet18", "width": 32}) == 9e12, "another network of the same kind"
    assert of(architecture="vgg16_bn") == 10e12, "any network in this precision"
    assert of(architecture="vgg16_bn", precision="float32") == 1e12
    assert rates.auto == "bfloat16"


def test_the_rate_of_another_device_is_better_than_none() -> None:
    rates = Rates.learned([run(1e12, "A"), run(2e12, "B"), run(4e12, "B")], "cpu, 1 thread")
    assert rates is not None
    assert (rates.origin, rates.usual) == ("learned from 2 trials on B", pytest.approx(3e12))


def test_unreadable_records_are_ignored(store: Store) -> None:
    ledger = Ledger(store.where)
    for i, record in enumerate(({}, {"spec": {"train": {"epoch": 1}}}, {"spec": 7}, {"spec": {}})):
        ledger.publish(f"{i:016x}", record)
    assert Costs.learned(store, place=CPU) is None


def test_a_machine_is_measured_once(store: Store) -> None:
    first = Costs.measured(store, place=CPU)
    (file,) = (store.root / "rates").glob("cpu-1-thread.json")
    content = json.loads(file.read_text())
    assert content["speeds"][first.rates.auto]["flops"] == first.rates.usual > 1e8
    content["speeds"][first.rates.auto]["flops"] = 123.0
    file.write_text(json.dumps(content))
    assert Costs.measured(store, place=CPU).rates.usual == 123.0
    file.write_text("{")
    assert Costs.measured(store, place=CPU).rates.usual > 1e8


def test_the_cost_of_data_sets_is_learned_from_built_ones(store: Store) -> None:
    plan = plan_of(tiny(grid={"data.poison": ["ops"], "seed": [0]}), store)
    guess = Costs.usual(store)
    ops = plan.to_build[-1]
    assert guess.data_seconds(ops) > START_SECONDS
    store.ensure(ops)
    path = store.path(ops) / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": 100.0}))
    learned = Costs.usual(store)
    assert learned.data_seconds(ops) == pytest.approx(100 + START_SECONDS)
    twice = ops.model_copy(update={"limit": 120, "seed": 3})
    assert learned.data_seconds(twice) == pytest.approx(200 + START_SECONDS)


def test_crafting_time_grows_with_the_computation(store: Store) -> None:
    def takes(**settings: Any) -> float:
        spec = DataSpec.parse({"poison": {"kind": "em", **settings}}, "test").pinned()
        return Costs.given(store, 1.0).data_seconds(spec)

    plain = takes(generator={"kind": "resnet18", "width": 16})
    assert takes(generator={"kind": "resnet18", "width": 16}, steps=40) > 1.5 * plain
    assert takes(generator={"kind": "resnet18", "width": 16}, max_rounds=1) < plain
    assert takes() > 2 * plain


TAP = {"kind": "tap", "surrogate": {"architecture": "lenet5", "epochs": 5}, "steps": 3}
AVATAR = {"kind": "avatar", "width": 8, "time": 5, "denoiser_epochs": 2}
SHARING = [
    ({"data.poison": [TAP], "data.seed": [0, 1, 2]}, "a surrogate, whatever the seed"),
    ({"data.poison": ["ops", "randpix", "clean"], "train.defense": [AVATAR]}, "a denoiser of clean images"),
    ({"train.defense": [AVATAR, {**AVATAR, "time": 9}]}, "a denoiser, however much noise it takes away"),
]


@pytest.mark.parametrize(("grid", "what"), SHARING, ids=[what for _, what in SHARING])
def test_a_network_that_several_data_sets_share_is_trained_once(
    grid: dict[str, list[Any]], what: str, store: Store
) -> None:
    plan, costs = plan_of(tiny(grid=grid), store), Costs.given(store, 1.0)
    found = estimate(plan, costs, Resources(1, 0.0, 1.0)).data
    sharing = [spec for spec in plan.to_build if spec.shares]
    method = sharing[0].restoration or sharing[0].poison[0]
    training = costs.rates.seconds(method.shared_work(60, shape=(3, 32, 32), num_classes=10))
    saved = [costs.data_seconds(spec) - found[spec.name] for spec in sharing]
    assert saved == pytest.approx([0.0] + [training] * (len(sharing) - 1))
    assert len(sharing) > 1
    assert training > 0


def test_a_network_that_a_built_data_set_shares_is_there(store: Store) -> None:
    both = tiny(grid={"data.poison": [TAP], "data.seed": [0, 1]})
    one, costs = Resources(1, 0.0, 1.0), Costs.given(store, 1.0)
    before = plan_of(both, store)
    first, second = (spec for spec in before.to_build if spec.shares)
    store.ensure(first)
    assert estimate(plan_of(both, store), costs, one).data[second.name] == pytest.approx(
        estimate(before, costs, one).data[second.name]
    )


def test_every_method_that_shares_a_network_says_what_its_training_takes() -> None:
    images, about = 500, {"shape": (3, 32, 32), "num_classes": 10}
    restoring = [member for member in Defense.registry.values() if issubclass(member, Restoration)]
    assert restoring
    for member in (*Poison.registry.values(), *restoring):
        method = member.parse(member.smoke, "test")
        work, training = method.work(images, **about).flops, method.shared_work(images, **about).flops
        assert (0 < training < work) if method.shared else training == 0, member.kind


def test_extents_are_known_before_a_data_set_is_built(store: Store) -> None:
    extents = Extents(store)
    spec = DataSpec().pinned()
    assert extents.of(spec) == Extent(1442, (3, 32, 32), 10)
    assert extents.of(spec.model_copy(update={"limit": 60})).images == 60
    assert extents.of(spec.model_copy(update={"limit": 9999})).images == 1442
    assert extents.of(DataSpec(split="test").pinned()).images == 355
    assert len(list((store.root / "extents").glob("digits-*-t*.json"))) == 2
    images = store.ensure(spec)
    assert Extents(store).of(spec) == Extent(len(images), images.shape, images.num_classes)


def test_the_extent_of_published_sets_needs_no_download(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert Cifar10(root=nowhere).extent("train") == Extent(50_000, (3, 32, 32), 10)
    assert Svhn(root=nowhere).extent("test").images == 26_032
    assert not Path(nowhere).exists()


def test_a_folder_of_images_knows_its_extent(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        for i in range(count):
            (tmp_path / split / str(i)).mkdir(parents=True)
            Image.new("RGB", (20, 16)).save(tmp_path / split / str(i) / "0.png")
    source = DataSpec.parse({"source": {"kind": "image_folder", "root": str(tmp_path)}}, "test").source
    assert source.extent("train") == Extent(3, (3, 16, 20), 3)


def test_a_missing_source_has_the_usual_extent(store: Store, tmp_path: Path) -> None:
    source = {
        "kind": "tensors",
        "train": str(tmp_path / "no"),
        "test": str(tmp_path / "no"),
        "fingerprint": "f",
    }
    assert Extents(store).of(DataSpec.parse({"source": source}, "test")) == USUAL["train"]


def test_a_network_that_cannot_be_built_has_the_usual_cost(store: Store) -> None:
    def seconds(architecture: Any) -> float:
        trial = TrialSpec.parse({"train": {"architecture": architecture}}, "test")
        trial = trial.model_copy(update={"data": trial.data.pinned()})
        return Costs.given(store, 1.0).trial_seconds(trial)

    broken = {"kind": "torchvision", "name": "resnet18", "options": {"no_such_option": 3}}
    assert seconds(broken) == pytest.approx(seconds("resnet18"), rel=0.02)


def test_five_thousand_trials_are_estimated_quickly(store: Store) -> None:
    pinned = DataSpec().pinned()
    widths = [{"kind": "resnet18", "width": 4 * (1 + i % 5)} for i in range(5)]
    widths[4] = {"kind": "torchvision", "name": "resnet18", "options": {"zero_init_residual": True}}
    trials = [
        TrialSpec.parse({"train": {"architecture": widths[i % 5]}, "seed": i}, "test").model_copy(
            update={"data": pinned.model_copy(update={"seed": i % 3})}
        )
        for i in range(5000)
    ]
    costs = Costs.given(store, 1.0)
    for trial in trials[:5]:
        costs.trial_seconds(trial)
    start = time.process_time()
    found = {costs.trial_seconds(trial) for trial in trials}
    assert time.process_time() - start < 1
    assert len(found) == 5


@pytest.mark.parametrize(
    ("run", "cpus", "gpus", "slots", "unit"),
    [
        ({}, 8, 0, 8, "CPU-hours"),
        ({"cpus_per_trial": 2}, 8, 0, 4, "CPU-hours"),
        ({}, 8, 2, 2, "GPU-hours"),
        ({"gpus_per_trial": 0.25}, 8, 1, 4, "GPU-hours"),
        ({"gpus_per_trial": "auto"}, 8, 1, 1, "GPU-hours"),
        ({"gpus_per_trial": 0.25}, 2, 1, 2, "GPU-hours"),
        ({"gpus_per_trial": 0}, 8, 1, 8, "CPU-hours"),
        ({"max_concurrent": 3}, 8, 0, 3, "CPU-hours"),
        ({"gpus_per_trial": 2}, 8, 4, 2, "GPU-hours"),
    ],
)
def test_the_number_of_slots_of_a_machine(
    run: dict[str, Any], cpus: int, gpus: int, slots: int, unit: str
) -> None:
    found = this_machine(RunSpec.parse(run, "test"), cpus=cpus, gpus=gpus)
    assert (found.slots, found.unit) == (slots, unit)
    assert this_machine(RunSpec.parse(run, "test"), cpus=cpus, gpus=gpus, slots=64).slots == 64


@pytest.mark.parametrize(
    ("run", "slots", "share"),
    [
        ({}, 1, 1.0),
        ({"gpus_per_trial": 0.25}, 1, 0.25),
        ({"gpus_per_trial": "auto", "max_concurrent": 6}, 6, 0.5),
        ({"gpus_per_trial": 0}, 8, 0.0),
    ],
)
def test_a_trial_takes_its_share_of_remote_gpus(run: dict[str, Any], slots: int, share: float) -> None:
    found = this_machine(RunSpec.parse(run, "test"), cpus=8, gpus=0, on_gpus=True, auto=0.5)
    assert (found.slots, found.gpus) == (slots, share)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpu_hours_are_estimated_on_a_machine_without_gpus(store: Store) -> None:
    """For example on a laptop, for a sweep that a cluster will run."""
    plain, wants = (plan_of(tiny(run=run), store) for run in ({}, {"gpus_per_trial": 1}))
    auto = plan_of(tiny(run={"gpus_per_trial": "auto"}), store)

    def cost_of(plan: Plan, **options: Any) -> tuple[str, float, str]:
        cost = estimate_on_this_machine(plan, store, **options)
        assert cost is not None
        return cost.resources.unit, cost.resources.gpus, cost.origin

    assert cost_of(plain)[0] == cost_of(plain, tflops=30)[0] == cost_of(auto)[0] == "CPU-hours"
    assert cost_of(wants) == ("GPU-hours", 1.0, "a guess; say what a GPU reaches with --tflops")
    assert cost_of(wants, tflops=30) == ("GPU-hours", 1.0, "given")
    assert cost_of(plain, tflops=30, slots=8) == ("GPU-hours", 1.0, "given")

    kept, extent = ShareStore(open_storage(store.where)), Extents(store).of(plain.tasks[0].trial.data)
    shape = shape_key(plain.tasks[0].trial, extent.shape, extent.images, extent.num_classes)
    kept.remember(shape, "NVIDIA A10G", {"share": 0.25})
    assert cost_of(auto, tflops=30) == ("GPU-hours", 0.25, "given")

    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # not as many as a trial would have here
    record = run_trial(plain.tasks[0].trial, store, device=CPU)
    torch.set_num_threads(threads)
    assert cost_of(wants)[2].startswith("a guess"), "a CPU says nothing about a GPU"
    for task in plain.tasks[1:3]:
        Ledger(store.where).publish(task.key, record | {"device": "NVIDIA A10G"})
    learned = ("GPU-hours", 1.0, "learned from 2 trials on NVIDIA A10G")
    assert cost_of(wants) == cost_of(plain) == learned, "most trials ran on that device"


def test_hours_cover_all_missing_work_divided_among_slots(store: Store) -> None:
    plan = plan_of(tiny(base={"data": {"limit": 60}, "train": {"epochs": 50}}), store)
    costs = Costs.given(store, 0.001)
    one, two = (estimate(plan, costs, Resources(slots, 0.0, 2.0)) for slots in (1, 2))
    assert one.hours == pytest.approx(2 * sum(one.trials.values()) / 3600), "two CPUs each"
    assert one.wall == pytest.approx(SWEEP_SECONDS + sum(one.trials.values()) + sum(one.data.values()))
    assert SWEEP_SECONDS + max(one.trials.values()) < two.wall < one.wall
    assert list(one.data) == [spec.name for spec in plan.to_build]


def test_a_network_is_compiled_once_in_each_worker(store: Store) -> None:
    def seconds(slots: int, execution: str, **changes: Any) -> float:
        plan = plan_of(tiny(base={"train": {"execution": execution}}, **changes), store)
        return sum(estimate(plan, Costs.given(store, 1.0), Resources(slots, 0.0, 1.0)).trials.values())

    assert seconds(1, "compiled") - seconds(1, "eager") == pytest.approx(COMPILE_SECONDS)
    assert seconds(3, "compiled") - seconds(3, "eager") == pytest.approx(3 * COMPILE_SECONDS)
    grid = {"train.architecture": ["lenet5", "resnet18"], "seed": [0]}
    more = {"grid": grid, "report": {"rows": "train.architecture"}}
    assert seconds(3, "compiled", **more) - seconds(3, "eager", **more) == pytest.approx(2 * COMPILE_SECONDS)


def test_each_unfinished_sweep_includes_the_start_of_ray(store: Store) -> None:
    plan, costs = plan_of(tiny(), store), Costs.given(store, 1.0)
    one, three = (estimate(plan, costs, CORE, sweeps=sweeps) for sweeps in (1, 3))
    assert (one.startup, three.startup) == (SWEEP_SECONDS, 3 * SWEEP_SECONDS)
    assert three.wall - one.wall == pytest.approx(2 * SWEEP_SECONDS)
    for task in plan.tasks:
        Ledger(store.where).publish(task.key, {"metrics": {}})
    done = estimate(plan_of(tiny(), store), costs, CORE)
    assert (done.startup, done.wall) == (0.0, 0.0)


def test_a_narrow_network_takes_longer_than_its_operations_suggest(store: Store) -> None:
    """Compared with width 32, a ResNet-18 of width 8 has a sixteenth of the operations but a quarter of the values."""
    costs = Costs.usual(store)
    spec = {"data": {"limit": 60}, "train": {"architecture": {"kind": "resnet18", "width": 8}, "epochs": 50}}
    narrow = TrialSpec.parse(spec, "test")
    spec["train"]["architecture"]["width"] = 32  # type: ignore[index]
    trials = (narrow, TrialSpec.parse(spec, "test"))
    seconds = [
        costs.trial_seconds(t.model_copy(update={"data": t.data.pinned()})) - START_SECONDS for t in trials
    ]
    assert seconds[1] < 12 * seconds[0]


def test_a_learned_factor_applies_to_all_parts_of_a_speed() -> None:
    """LeNet's time predicts that of ResNet-18, although LeNet reaches a tenth of the operations per second."""
    true = Speed(1e11, values=4e8, kernels=1.5e4)  # half the usual speed, except for operations
    small, large = Work(1e9, 100, 2e7, 4000), Work(1e12, 100, 5e9, 20_000)
    lenet = TrainSpec.parse({"architecture": "lenet5"}, "test")
    learned = Rates.learned(
        [Run(lenet, "cpu, 1 thread", "float32", small, true.seconds(small))], "cpu, 1 thread"
    )
    assert learned is not None
    assert learned.seconds(small, lenet) == pytest.approx(true.seconds(small))
    assert true.seconds(large) / 2 < learned.seconds(large, TrainSpec()) < 2 * true.seconds(large)


def test_a_failed_measurement_falls_back_to_a_guess(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """For example on a GPU without free memory."""
    monkeypatch.setattr(Costs, "measured", lambda *_, **__: 1 / 0)
    found = estimate_on_this_machine(plan_of(tiny(run={"gpus_per_trial": 0}), store), store)
    assert found is not None
    assert found.origin.startswith("a guess")
    assert "about" in lines(found)[1]


def test_operations_counted_by_an_older_version_are_counted_again(store: Store) -> None:
    spec = DataSpec().pinned()
    trial = TrialSpec().model_copy(update={"data": spec})
    seconds = Costs.usual(store).trial_seconds(trial)
    (file,) = (store.root / "flops").glob("resnet18-*.json")
    content = json.loads(file.read_text())
    file.write_text(json.dumps({name: content[name] for name in ("forward", "backward", "inputs")}))
    assert Costs.usual(store).trial_seconds(trial) == pytest.approx(seconds)


def test_a_given_rate_precedes_a_learned_and_a_measured_one(store: Store) -> None:
    plan = plan_of(tiny(), store)
    assert best_costs(plan, store, CORE).rates.origin == "measured on this machine"
    run_trial(plan.tasks[0].trial, store, device=CPU)
    again = plan_of(tiny(), store)
    assert best_costs(again, store, CORE).rates.origin.startswith("learned from 1 trial on cpu")
    assert best_costs(again, store, CORE, 30).rates.origin == "given"


def test_the_rate_is_learned_from_trials_of_the_sweep_after_a_probe_is_added(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although none of them is done, and there are many others."""
    own = tiny(grid={"seed": [0]})
    (task,) = plan_of(own, store).tasks
    record, ledger = run_trial(task.trial, store, device=CPU), Ledger(store.where)
    before = best_costs(plan_of(own, store), store, CORE).rates
    for i in range(30):
        ledger.publish(f"{i:016x}", {**record, "seconds": 1000 * record["seconds"]})
    monkeypatch.setattr(cost, "LEARN", 1)
    after = best_costs(plan_of(own | {"probes": ["distance"]}, store), store, CORE).rates
    assert (after.origin, after.usual) == (before.origin, before.usual)


def test_an_estimate_that_fails_does_not_fail_the_plan(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tiny(), store)
    (store.root / "rates").write_text("in the way")
    assert estimate_on_this_machine(plan, store) is not None, "a rate that cannot be stored is measured again"
    monkeypatch.setattr(Costs, "trial_seconds", lambda *_: 1 / 0)
    assert estimate_on_this_machine(plan, store) is None


def test_a_plan_prints_its_duration(opsctl: Opsctl, tmp_path: Path) -> None:
    file = write(tmp_path, tiny(base={"data": {"limit": 1000}, "train": {"epochs": 200}}))
    code, out, err = opsctl("plan", file, "--tflops", 30, "--slots", 3)
    assert (code, err) == (0, "")
    # a ResNet-18: 200 epochs of 1,000 images, 3.33 GFLOP each, and of 355 test images, 1.11 GFLOP each
    assert "about 0.03 GPU-hours of trials, the longest of 27 s; about 8 s of data sets" in out
    assert "about 1 min on 3 slots, 15 s of it to start (rate: 30 TFLOP/s, given)" in out
    assert re.search(r"digits-ops-train +[0-9a-f]{16} +to build +under 1 s", out)
    code, out, _ = opsctl("plan", file)
    assert re.search(
        r"on \d+ slots?, 15 s of it to start \(rate: [\d.e-]+ TFLOP/s, measured on this machine\)", out
    )


def test_a_plan_with_nothing_left_prints_no_hours(opsctl: Opsctl, store: Store, tmp_path: Path) -> None:
    plan = plan_of(tiny(), store)
    for task in plan.tasks:
        run_trial(task.trial, store, device=CPU)
    code, out, _ = opsctl("plan", write(tmp_path, tiny()))
    assert code == 0
    assert "hours" not in out
    more = {**tiny(), "grid": {"data.poison": ["clean", "ops"], "seed": [0, 1, 2]}}
    _, out, _ = opsctl("plan", write(tmp_path, more))
    assert "learned from 4 trials on cpu" in out
    assert "of data sets" not in out
    assert lines(estimate(plan_of(tiny(), store), Costs.usual(store), CORE)) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "under 1 s"),
        (42.4, "42 s"),
        (59.7, "1 min"),
        (720, "12 min"),
        (3599, "1 h 00 min"),
        (11520, "3 h 12 min"),
        (432_000, "120 h"),
        (36e6, "10,000 h"),
    ],
)
def test_durations_are_readable(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(0.001, "under 0.01"), (0.25, "about 0.25"), (12.34, "about 12.3"), (1234.5, "about 1,234")],
)
def test_hours_are_readable(number: float, words: str) -> None:
    assert hours(number) == words


def test_the_extent_of_digits_is_known() -> None:
    assert Digits().extent("train") == Extent(1442, (3, 32, 32), 10)
