"""The training loop learns, repeats, agrees with a plain loop, and says when it cannot go on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from poisons import DataSpec, Store
from tests.conftest import CPU
from trainers import Images, TrainSpec, fit
from trainers.evaluate import accuracy
from trainers.families import Architecture, Defense, Schedule
from trainers.loop import DivergenceError, Metrics, generator, summary
from trainers.spec import Plugin

TINY: dict[str, Any] = {"architecture": "lenet5", "epochs": 2, "batch_size": 16, "augmentations": []}


def test_equal_arguments_give_equal_numbers(images: Images) -> None:
    spec = TrainSpec.parse({**TINY, "augmentations": ["flip_crop"]}, "test")
    state = torch.get_rng_state()
    one, again = (fit(spec, images, images, seed=3, device=CPU).history for _ in range(2))
    other = fit(spec, images, images, seed=4, device=CPU).history
    assert one == again
    assert one != other
    assert torch.equal(torch.get_rng_state(), state), "no global generator is touched"


def test_the_loop_agrees_with_a_plain_one(images: Images) -> None:
    spec = TrainSpec.parse({**TINY, "schedule": {"kind": "multi_step", "milestones": [0.5]}}, "test")
    ours = fit(spec, images, images, seed=0, device=CPU)
    model = spec.architecture.network(num_classes=4, shape=(3, 32, 32), seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for epoch, lr in ((1, 0.1), (2, 0.1 * 0.1)):
        optimizer.param_groups[0]["lr"] = lr
        order = torch.randperm(40, generator=generator(CPU, 0, epoch))
        for take in order.split(16):
            optimizer.zero_grad()
            F.cross_entropy(model(images.x[take].float() / 255), images.y[take]).backward()
            optimizer.step()
    for a, b in zip(ours.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_every_epoch_is_reported_and_summed_up(images: Images) -> None:
    rows: list[Metrics] = []
    history = fit(
        TrainSpec.parse(TINY, "test"), images, images, seed=0, device=CPU, report=rows.append
    ).history
    assert rows == history
    assert [row["epoch"] for row in rows] == [1, 2]
    assert set(rows[0]) == {"epoch", "train/loss", "train/acc", "lr", "test/clean_acc"}
    peaks = [
        {"epoch": float(e), "lr": 0.0, "test/clean_acc": acc} for e, acc in enumerate([0.2, 0.7, 0.7, 0.4], 1)
    ]
    assert summary(peaks) == {"test/clean_acc": 0.4, "test/peak_clean_acc": 0.7, "test/peak_epoch": 2}


def test_training_writes_into_no_image(images: Images) -> None:
    before = images.x.clone()
    spec = TrainSpec.parse({**TINY, "epochs": 1, "defense": {"kind": "pgd_at", "steps": 2}}, "test")
    fit(spec, images, images, seed=0, device=CPU)
    assert torch.equal(images.x, before)


def test_a_loss_that_is_no_number_is_told_with_its_epoch(images: Images) -> None:
    spec = TrainSpec.parse({**TINY, "epochs": 50, "optimizer": {"kind": "sgd", "lr": 1e6}}, "test")
    with pytest.raises(
        DivergenceError, match=r"the training loss became (nan|inf) in epoch \d+; try a smaller"
    ):
        fit(spec, images, images, seed=0, device=CPU)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_digits_are_learnt_in_either_precision(store: Store, precision: str) -> None:
    train, test = (store.ensure(DataSpec.parse({"split": s}, "test").pinned()) for s in ("train", "test"))
    spec = TrainSpec.parse(
        {
            **TINY,
            "epochs": 12,
            "batch_size": 64,
            "optimizer": {"kind": "sgd", "lr": 0.03},
            "schedule": "one_cycle",
        }
        | {"precision": precision},
        "test",
    )
    assert summary(fit(spec, train, test, seed=0, device=CPU).history)["test/clean_acc"] > 0.93


def test_accuracy_is_the_share_of_right_answers(images: Images) -> None:
    class Constant(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.one_hot(torch.ones(len(x), dtype=torch.int64), 4).float()

    model = Constant().train()
    assert accuracy(model, images, batch_size=7) == 0.25
    assert model.training


@pytest.mark.parametrize(
    ("spec", "at"),
    [
        ({"kind": "multi_step"}, {0.1: 1, 0.499: 1, 0.5: 0.1, 0.74: 0.1, 0.75: 0.01, 0.99: 0.01}),
        ({"kind": "one_cycle", "warmup": 0.2}, {0.1: 0.5, 0.2: 1, 0.6: 0.5, 1.0: 0}),
    ],
)
def test_schedules_have_their_closed_form(spec: Any, at: dict[float, float]) -> None:
    schedule = Schedule.parse(spec, "test")
    assert {p: pytest.approx(f) for p, f in at.items()} == {p: schedule.factor(p) for p in at}


@pytest.mark.parametrize("member", Schedule.registry.values(), ids=lambda m: m.kind)
def test_every_schedule_stays_between_nothing_and_the_full_rate(member: type[Schedule]) -> None:
    assert all(0 <= member().factor(i / 1000) <= 1 for i in range(1, 1000))


FIELDS = {"architecture": "architecture", "augmentation": "augmentations", "defense": "defense"} | {
    "optimizer": "optimizer",
    "schedule": "schedule",
}
KINDS = [(family, kind) for family in FIELDS for kind in Plugin.families[family].registry]


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_every_kind_trains_two_batches(images: Images, family: str, kind: str) -> None:
    settings = {"kind": kind, **Plugin.families[family].registry[kind].smoke}
    field: Any = [settings] if family == "augmentation" else settings
    spec = TrainSpec.parse({**TINY, "epochs": 1, "batch_size": 20, FIELDS[family]: field}, "test")
    row = fit(spec, images, images, seed=0, device=CPU).history[0]
    assert 0 < row["train/loss"] < 100


@pytest.mark.parametrize("member", Defense.registry.values(), ids=lambda m: m.kind)
def test_every_defense_keeps_images_and_gives_a_finite_loss(member: type[Defense], images: Images) -> None:
    defense, before = member.parse(member.smoke, "test"), images.x.clone()
    prepared = defense.prepare(images)
    assert prepared.x.shape == images.x.shape
    assert torch.equal(prepared.y, images.y)
    model = Architecture.parse("lenet5", "test").network(num_classes=4, shape=(3, 32, 32), seed=0).train()
    y = F.one_hot(prepared.y, 4).float()
    loss, logits = defense.loss(model, prepared.x.float() / 255, y, torch.Generator().manual_seed(0))
    assert loss.isfinite()
    assert logits.shape == (40, 4)
    assert model.training
    assert torch.equal(images.x, before)
