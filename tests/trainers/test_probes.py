"""Looks change nothing about a training, and each probe finds what a second way of finding it does."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from tests.conftest import CPU
from trainers import Images, InputError, TrainSpec, fit
from trainers.__main__ import main
from trainers.checkpoint import Checkpoint
from trainers.evaluate import accuracy
from trainers.families import Metrics
from trainers.flops import network_flops
from trainers.images import Extent
from trainers.loop import DivergenceError, generator
from trainers.probe import Examined, Probe, ProbeRun, Subject, metrics_of
from trainers.probe_view import ProbeView
from trainers.probes.distance import distance
from trainers.stored import JsonFile
from trainers.trial import Trial

SETTINGS: dict[str, Any] = {
    "architecture": {"kind": "resnet18", "width": 4},
    "augmentations": ["flip_crop"],
    "epochs": 4,
    "batch_size": 16,
    "ema": 0.9,
    "precision": "float32",
}
TRIAL = Trial.parse({"train": SETTINGS, "evaluation": {"limit": 24}, "seed": 1}, "test")
VIEW = JsonFile[ProbeView](ProbeView)
MEMBERS = [member for member in Probe.registry.values() if issubclass(member, Probe)]


@pytest.fixture
def poisoned(images: Images) -> Images:
    """`images` with a pixel of a colour of the class's."""
    x = images.x.clone()
    x[:, :, 3, 5] = (images.y * 80).to(torch.uint8)[:, None]
    return Images(x, images.y, images.num_classes)


def runs_of(member: type[Probe], images: Images) -> list[ProbeRun]:
    """A run with sets of images, including those that the probe needs."""
    probe = Probe.parse({"kind": member.kind, **member.smoke}, "test")
    names = {*probe.needs, *(("clean", "other") if probe.per_set else ())}
    return [ProbeRun("probe", probe, dict.fromkeys(names, images))]


def state(model: nn.Module) -> list[bytes]:
    """Weights, statistics, modes, `requires_grad` and gradients."""
    tensors = [t.detach().numpy().tobytes() for t in model.state_dict().values()]
    modes = bytes(m.training for m in model.modules())
    wanted = bytes(p.requires_grad for p in model.parameters())
    return [*tensors, modes, wanted, bytes(p.grad is None for p in model.parameters())]


@contextmanager
def untouched(model: nn.Module, *images: Images) -> Iterator[None]:
    """Fails if anything differs afterwards: the network, the pixels, a global generator."""

    def seen() -> list[Any]:
        chance = [torch.get_rng_state().numpy().tobytes(), random.getstate(), str(np.random.get_state())]
        return [*state(model), *(i.x.numpy().tobytes() for i in images), *chance]

    before = seen()
    yield
    assert seen() == before


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.kind)
def test_every_probe_changes_nothing_and_returns_its_metrics(
    member: type[Probe], images: Images, poisoned: Images
) -> None:
    probe_runs = runs_of(member, images)
    plain_model, plain = TRIAL.run(poisoned, images, device=CPU)
    model, record = TRIAL.run(poisoned, images, device=CPU, probe_runs=probe_runs)
    found = record.pop("findings")["probe"]
    json.dumps(found, allow_nan=False)
    assert set(metrics_of(probe_runs[0].probe, probe_runs[0].sets)) <= set(found["metrics"])
    check_view(VIEW.check(probe_runs[0].probe.view(list(probe_runs[0].sets))), found)
    for name in ("spec", "metrics", "per_class_acc", "warnings", "history"):
        assert record[name] == plain[name], f"a probe changes no {name}"
    assert state(model)[:-3] == state(plain_model)[:-3], "nor a weight"
    if not probe_runs[0].probe.watches:
        with untouched(model.train(), images, poisoned):
            again = TRIAL.run_probes(
                model, poisoned, images, probe_runs, device=CPU, history=record["history"]
            )
        assert {**again["probe"], "seconds": 0} == {**found, "seconds": 0}, "the same from weights alone"


class Counted(TorchDispatchMode):
    """Counts the operations of convolutions and products; torch's own counter fails in `autograd.grad`."""

    flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (rule := flop_registry.get(func.overloadpacket)) is not None:
            self.flops += rule(*args, **(kwargs or {}), out_val=out)
        return out


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.kind)
def test_the_work_of_a_probe_is_what_torch_counts(member: type[Probe], images: Images) -> None:
    """Operations of convolutions and products, within a factor of two; none counts as none."""
    learnt = {**SETTINGS, "augmentations": [], "epochs": 12, "ema": None}
    trial = Trial.parse({"train": learnt, "evaluation": {"limit": 24}}, "test")
    bright = images.x // 16 + (60 * images.y).to(torch.uint8)[:, None, None, None]
    images = Images(bright, images.y, images.num_classes)
    model, record = trial.run(images, images, device=CPU)
    assert record["metrics"]["test/clean_acc"] > 0.7, "else few removals would be tried"
    (run,) = runs_of(member, Images(255 - images.x, images.y, images.num_classes))
    network = network_flops(trial.train.architecture, shape=images.shape, num_classes=images.num_classes)
    sets = {name: some.extent for name, some in run.sets.items()}
    test = Extent(24, images.shape, images.num_classes)
    expected = run.probe.work(Examined(trial.train, network, images.extent, test, sets)).flops
    with Counted() as counter:
        if run.probe.watches:
            watch = run.probe.watch(model, images.subset(24), CPU)
            for row in record["history"]:
                watch(model, row)
        else:
            trial.run_probes(model, images, images, [run], device=CPU, history=record["history"])
    early = 10 if member.kind == "edge_pixels" else 1  # its fit converges long before the last iteration
    assert expected == counter.flops == 0 or 0.5 < expected / counter.flops < 2 * early, (expected, counter)


def check_view(view: ProbeView, found: dict[str, Any]) -> None:
    """Fails if a view names what the probe did not find."""
    picture, marks = view.get("picture"), view.get("marks", [])
    assert view.get("says", "").endswith(".")
    assert set(view.get("units", {})) <= {*found["metrics"], *found["curves"]}
    assert {*view.get("curves", []), *(mark["curve"] for mark in marks)} <= set(found["curves"])
    assert {mark["value"] for mark in marks if "value" in mark} <= set(found["metrics"])
    if picture and picture["kind"] == "heat_map":
        x, y, values = (found["fields"][picture[name]] for name in ("x", "y", "values"))
        assert [len(row) for row in values] == [len(x)] * len(y)
        assert set(picture.get("metrics", [])) <= set(found["metrics"])
    elif picture:
        fields = [picture["images"], *([picture["filters"]] if "filters" in picture else [])]
        assert all(found["fields"][name] for name in fields)
        assert all({"label", "pixels", "response"} <= set(one) for one in found["fields"][picture["images"]])


@pytest.mark.parametrize("member", [m for m in MEMBERS if m().watches], ids=lambda m: m.kind)
def test_a_watch_does_not_change_the_network(member: type[Probe], images: Images) -> None:
    model = TRIAL._initial(images, CPU).train()
    watch = member.parse(member.smoke, "test").watch(TRIAL._initial(images, CPU), images, CPU)
    with untouched(model, images):
        assert watch(model, {"epoch": 1.0, "train/acc": 0.5})


class PowerError(Exception):
    """A power failure."""


def watching() -> list[ProbeRun]:
    probes = [Probe.parse({"kind": m.kind, **m.smoke}, "test") for m in MEMBERS]
    probe_runs = [ProbeRun(probe.kind, probe) for probe in probes if probe.watches]
    assert len(probe_runs) > 1
    return probe_runs


def cut(row: Metrics) -> None:
    if row["epoch"] == 3:
        raise PowerError


def findings(record: dict[str, Any]) -> dict[str, Any]:
    return {name: {**found, "seconds": 0} for name, found in record["findings"].items()}


def test_watched_rows_survive_a_resumption(images: Images, tmp_path: Path) -> None:
    probe_runs, checkpoint = watching(), Checkpoint(tmp_path / "c.pt", every=0)
    once, whole = TRIAL.run(images, images, device=CPU, probe_runs=probe_runs)
    with pytest.raises(PowerError):
        TRIAL.run(images, images, device=CPU, probe_runs=probe_runs, checkpoint=checkpoint, report=cut)
    model, resumed = TRIAL.run(images, images, device=CPU, probe_runs=probe_runs, checkpoint=checkpoint)
    assert resumed["history"] == whole["history"]
    assert state(model)[:-3] == state(once)[:-3]
    assert findings(resumed) == findings(whole)
    assert resumed["warnings"] == whole["warnings"]
    assert len(resumed["findings"]["distance"]["curves"]["distance"]) == 4


@pytest.mark.parametrize("before", [(), ("distance",)])
def test_a_checkpoint_without_the_watched_rows_restarts_the_training(
    images: Images, tmp_path: Path, before: Sequence[str]
) -> None:
    """Its epochs are gone, and cannot be observed; numbers and findings are those of one training."""
    probe_runs, checkpoint = watching(), Checkpoint(tmp_path / "c.pt", every=0)
    _, whole = TRIAL.run(images, images, device=CPU, probe_runs=probe_runs)
    some = [probe_run for probe_run in probe_runs if probe_run.name in before]
    with pytest.raises(PowerError):
        TRIAL.run(images, images, device=CPU, checkpoint=checkpoint, report=cut, probe_runs=some)
    _, again = TRIAL.run(images, images, device=CPU, probe_runs=probe_runs, checkpoint=checkpoint)
    assert again["history"] == whole["history"]
    assert findings(again) == findings(whole)
    assert any("lacks what probes watch" in warning for warning in again["warnings"])


def test_a_checkpoint_with_extra_watched_rows_is_resumed(images: Images, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c.pt", every=0)
    with pytest.raises(PowerError):
        TRIAL.run(images, images, device=CPU, checkpoint=checkpoint, report=cut, probe_runs=watching())
    _, record = TRIAL.run(images, images, device=CPU, checkpoint=checkpoint)
    assert record["history"] == TRIAL.run(images, images, device=CPU)[1]["history"]
    assert not any("done again" in warning for warning in record["warnings"])
    assert "findings" not in record


def subject(model: nn.Module, images: Images, **changes: Any) -> Subject:
    given: dict[str, Any] = {"model": model.eval(), "untrained": lambda: model, "spec": TRIAL.train}
    given |= {"train": images, "test": images, "sets": {}, "history": [], "watched": [], "seed": 0}
    return Subject(**{**given, "device": CPU, **changes})


def test_the_distance_is_a_sum_over_weights_in_float64(images: Images) -> None:
    """After every epoch, computed by hand from the weights; before the training, none."""
    spec = TrainSpec.parse({**SETTINGS, "ema": None}, "test")
    first = spec.architecture.network(num_classes=4, shape=(3, 32, 32), seed=1)
    assert distance(first, first) == 0
    sums: list[tuple[float, float]] = []

    def by_hand(model: nn.Module, _: Metrics) -> dict[str, float]:
        names = [name for name, _ in model.named_parameters()]
        old, new = first.state_dict(), model.state_dict()
        moved = sum(float(((new[n].double() - old[n].double()) ** 2).sum()) for n in names)
        length = sum(float((old[n].double() ** 2).sum()) for n in names)
        sums.append((math.sqrt(moved), math.sqrt(moved / length)))
        return {}

    probe = Probe.parse("distance", "test")
    watch = probe.watch(TRIAL._initial(images, CPU), images, CPU)
    trained = fit(spec, images, images, seed=1, device=CPU, watches={"ours": watch, "naive": by_hand})
    ours = [(row["distance"], row["relative"]) for row in trained.watched["ours"]]
    assert len(ours) == 4
    assert ours[-1][0] > 0
    assert [value for pair in ours for value in pair] == pytest.approx([v for pair in sums for v in pair])


@pytest.mark.parametrize(
    ("threshold", "found"), [(0.9, {"epoch_at_90": 2.0}), (0.55, {"epoch_at_55": 2.0}), (0.96, {})]
)
def test_the_distance_reports_when_the_training_set_was_learnt(
    images: Images, threshold: float, found: dict[str, float]
) -> None:
    history = [{"epoch": e, "train/acc": acc} for e, acc in ((1.0, 0.5), (2.0, 0.9), (3.0, 0.8), (4.0, 0.95))]
    watched = [{"distance": float(i), "relative": i / 10} for i in range(1, 5)]
    probe = Probe.parse({"kind": "distance", "threshold": threshold}, "test")
    seen = probe.run(subject(nn.Identity(), images, history=history, watched=watched))
    assert seen.metrics == {"distance": 4.0, "relative": 0.4, **found}
    assert seen.curves == {"distance": [1.0, 2.0, 3.0, 4.0], "relative": [0.1, 0.2, 0.3, 0.4]}
    assert {mark["epoch"] for mark in probe.view([])["marks"]} >= set(found), "it is marked on the curve"


class Says(nn.Module):
    """Always the same class."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.one_hot(torch.full((len(x),), 2), 4).float()


class ReadsThePixel(nn.Module):
    """Predict the class of the pixel's colour from nothing else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -(x[:, 0, 3, 5, None] * 255 - 80 * torch.arange(4)).abs()


def test_the_shuffle_test_detects_networks_that_read_the_perturbation(
    images: Images, poisoned: Images
) -> None:
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    content = images.x[order].clone()
    content[:, :, 3, 5] = poisoned.x[:, :, 3, 5]
    uneven = images.take(torch.tensor([0, 2, 6, 10, 14, 18, 22, 26]))
    sets = {"clean": images, "ops": poisoned, "shuffled": Images(content, images.y, 4), "uneven": uneven}
    probe = Probe.parse("shuffle_test", "test")
    assert metrics_of(probe, sets) == ("chance", "clean_acc", "ops_acc", "shuffled_acc", "uneven_acc")
    says = probe.run(subject(Says(), images, sets=sets)).metrics
    assert says == {"chance": 0.25, "uneven_acc": 7 / 8} | {f"{k}_acc": 0.25 for k in list(sets)[:3]}
    reads = probe.run(subject(ReadsThePixel(), images, sets=sets)).metrics
    assert reads["ops_acc"] == reads["shuffled_acc"] == 1
    right = [abs(int(v) - 80 * k) == min(abs(int(v) - 80 * j) for j in range(4)) for v, k in
             zip(images.x[:, 0, 3, 5], images.y.tolist(), strict=True)]  # fmt: skip
    assert reads["clean_acc"] == pytest.approx(sum(right) / 40)
    assert reads["clean_acc"] < 0.6


def test_early_stopping_chooses_and_evaluates_on_different_images(images: Images) -> None:
    """The epochs' answers are random and known; counted again with lists."""
    gen = torch.Generator().manual_seed(7)
    answers = torch.randint(4, (6, 40), generator=gen)

    class Scripted(nn.Module):
        epoch = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.one_hot(answers[self.epoch], 4).float()

    model, probe = Scripted(), Probe.parse({"kind": "early_stopping", "share": 0.4}, "test")
    watch, watched = probe.watch(model, images, CPU), []
    for model.epoch in range(6):
        watched.append(watch(model, {"epoch": model.epoch + 1.0}))
    found = probe.run(subject(model, images, watched=watched))
    held = images.balanced(16).tolist()
    rest = [i for i in range(40) if i not in held]
    assert torch.bincount(images.y[held]).tolist() == [4, 4, 4, 4]
    right = (answers == images.y).tolist()
    of_held = [sum(row[i] for i in held) / 16 for row in right]
    of_rest = [sum(row[i] for i in rest) / 24 for row in right]
    assert found.curves["holdout_acc"] == pytest.approx(of_held)
    assert found.curves["rest_acc"] == pytest.approx(of_rest)
    stopped, peak = int(np.argmax(of_held)), int(np.argmax(of_rest))
    assert stopped != peak, "or the case shows nothing"
    assert found.metrics == pytest.approx(
        {"last_acc": of_rest[-1], "peak_acc": of_rest[peak], "peak_epoch": peak + 1}
        | {"stopped_acc": of_rest[stopped], "stopped_epoch": stopped + 1}
    )


def test_early_stopping_without_enough_images_is_refused(images: Images) -> None:
    probe = Probe.parse({"kind": "early_stopping", "share": 0.01}, "test")
    with pytest.raises(InputError, match=r"a share of 0.01 of 40 test images leaves one part empty"):
        probe.watch(nn.Identity(), images, CPU)


LENET = {**SETTINGS, "architecture": "lenet5", "augmentations": [], "ema": None}
LENET |= {"schedule": {"kind": "multi_step", "milestones": [0.5]}}


def test_fine_tuning_matches_a_plain_loop(images: Images, poisoned: Images) -> None:
    spec = TrainSpec.parse(LENET, "test")
    trained = fit(spec, images, images, seed=3, device=CPU).model
    weights = {name: w.clone() for name, w in trained.state_dict().items()}
    probe = Probe.parse({"kind": "fine_tune", "epochs": 2, "lr": 0.2}, "test")
    found = probe.run(subject(trained, images, spec=spec, sets={"ops": poisoned}, seed=3))
    model = spec.architecture.network(num_classes=4, shape=(3, 32, 32), seed=99)
    model.load_state_dict(weights)
    curve = [accuracy(model, images, CPU)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-4)
    for epoch, lr in ((1, 0.2), (2, 0.2 * 0.1)):
        optimizer.param_groups[0]["lr"] = lr
        for take in torch.randperm(40, generator=generator(CPU, 3, epoch)).split(16):
            optimizer.zero_grad()
            F.cross_entropy(model(poisoned.x[take].float() / 255), poisoned.y[take]).backward()
            optimizer.step()
        curve.append(accuracy(model, images, CPU))
    assert found.curves == {"ops": curve}
    assert found.metrics == {"ops_acc": curve[-1], "ops_peak_acc": max(curve[1:])}


def test_fine_tuning_in_bfloat16_equals_a_separate_training(images: Images, poisoned: Images) -> None:
    """A probe runs under autocast, which would cache casts of weights that the training then updates."""
    trial = Trial.parse({"train": {**LENET, "precision": "bfloat16"}, "seed": 3}, "test")
    model, record = trial.run(images, images, device=CPU)
    probe = Probe.parse({"kind": "fine_tune", "epochs": 3, "lr": 0.1}, "test")
    probe_runs = [ProbeRun("tuned", probe, {"ops": poisoned})]
    found = trial.run_probes(model, images, images, probe_runs, device=CPU, history=record["history"])
    optimizer = trial.train.optimizer.model_copy(update={"lr": 0.1})
    spec = trial.train.model_copy(update={"epochs": 3, "optimizer": optimizer})
    alone = fit(spec, poisoned, images, seed=3, device=CPU, start=model.state_dict())
    assert found["tuned"]["curves"]["ops"][1:] == [row["test/clean_acc"] for row in alone.history]
    losses = [row["train/loss"] for row in alone.history]
    assert losses[-1] < losses[0], "or the case shows nothing"


def test_fine_tuning_at_rate_zero_changes_nothing_and_at_a_high_rate_unlearns(
    images: Images, poisoned: Images
) -> None:
    """Four images learnt by heart; then other labels for them."""
    few = images.take(torch.arange(4))
    spec = TrainSpec.parse(
        {**LENET, "epochs": 60, "batch_size": 4, "optimizer": {"kind": "sgd", "lr": 0.05}}, "test"
    )
    model = fit(spec, few, few, seed=0, device=CPU).model
    sets = {"same": few, "wrong": Images(few.x, (few.y + 1) % 4, 4)}
    still = Probe.parse({"kind": "fine_tune", "epochs": 2, "lr": 0}, "test")
    assert still.run(subject(model, few, spec=spec, sets=sets)).curves == {
        "same": [1.0, 1.0, 1.0],
        "wrong": [1.0, 1.0, 1.0],
    }
    moving = Probe.parse({"kind": "fine_tune", "epochs": 60, "lr": 0.05}, "test")
    found = moving.run(subject(model, few, spec=spec, sets=sets)).metrics
    assert (found["same_acc"], found["wrong_acc"]) == (1.0, 0.0)


def test_fine_tuning_that_diverges_names_the_set_and_the_fix(images: Images) -> None:
    spec = TrainSpec.parse(LENET, "test")
    model = spec.architecture.network(num_classes=4, shape=(3, 32, 32), seed=0)
    probe = Probe.parse({"kind": "fine_tune", "lr": 1e6}, "test")
    with pytest.raises(
        DivergenceError, match=r"fine_tune on 'ops' diverged in epoch 1: give the probe a smaller"
    ):
        probe.run(subject(model, images, spec=spec, sets={"ops": images}))


def probe_run(kind: str, name: str = "probe", **sets: Images) -> ProbeRun:
    return ProbeRun(name, Probe.parse(kind, "test"), sets)


def test_impossible_probes_are_refused_before_the_training(images: Images) -> None:
    small = Images(images.x[:, :, :16], images.y, 4)
    for probe_runs, message in (
        ([probe_run("distance"), probe_run("early_stopping")], "two probes have the same name: probe, probe"),
        (
            [probe_run("shuffle_test")],
            "'shuffle_test' compares sets of images, and was given none: write sets",
        ),
        (
            [probe_run("fine_tune")],
            "'fine_tune' fine-tunes on sets of images, and was given none: write",
        ),
        (
            [probe_run("linear_separability")],
            "'linear_separability' needs a set 'clean': write sets: {clean:",
        ),
        (
            [probe_run("fine_tune", em=images, em_peak=images)],
            "two of its metrics would be 'em_peak_acc'; give a set another name",
        ),
        (
            [probe_run("shuffle_test", em=small)],
            r"probe 'probe': the set 'em' is of \(3, 16, 32\) in 4 classes",
        ),
    ):
        rows: list[Metrics] = []
        with pytest.raises(InputError, match=message):
            TRIAL.run(images, images, device=CPU, probe_runs=probe_runs, report=rows.append)
        assert rows == []


def test_a_probe_that_watches_refuses_final_weights(images: Images) -> None:
    model = TRIAL._initial(images, CPU)
    with pytest.raises(InputError, match=r"'far': 'distance' watches every epoch.*train the trial again"):
        TRIAL.run_probes(model, images, images, [probe_run("distance", "far")], device=CPU, history=[])


def test_probes_run_on_a_bare_machine(
    images: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):
        images.save(tmp_path / f"{split}.pt")
    (tmp_path / "spec.json").write_text(json.dumps({"train": SETTINGS, "seed": 1}))
    command = [str(tmp_path / "spec.json"), "--data", str(tmp_path), "--device", "cpu"]
    far = '{"kind": "distance", "name": "far", "threshold": 0.2}'
    assert main([*command, "--probe", "early_stopping", "--probe", far]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    assert list(found) == ["early_stopping", "far"]
    probe_runs = [
        probe_run("early_stopping", "early_stopping"),
        ProbeRun("far", Probe.parse({"kind": "distance", "threshold": 0.2}, "test")),
    ]
    record = Trial.parse({"train": SETTINGS, "seed": 1}, "test").run(
        images, images, device=CPU, probe_runs=probe_runs
    )[1]
    assert findings({"findings": found}) == findings(record)

    def broken(probe: Any, subject: Subject) -> None:
        raise InputError("nothing to see")

    kept = tmp_path / "weights.pt"
    monkeypatch.setattr(type(probe_runs[1].probe), "run", broken)
    assert main([*command, "--weights", str(kept), "--probe", far, "--probe", "early_stopping"]) == 2
    said = capsys.readouterr()
    assert "nothing to see" in said.err
    saved = json.loads(said.out.splitlines()[-1])
    assert (list(saved["findings"]), saved["metrics"]) == (["early_stopping"], record["metrics"])
    assert kept.exists(), "a probe that fails costs neither the record nor the weights"
    for text, message in (
        ("distanse", "--probe distanse: unknown probe 'distanse'; did you mean 'distance'"),
        ('{"kind"', '--probe {"kind": it is not JSON'),
        ("shuffle_test", "was given none"),
    ):
        assert main([*command, "--probe", text]) == 2
        assert message in capsys.readouterr().err
