"""Robust error-minimising noise: that of a plain implementation, in its budget after rounding, the same after
a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poisons import CraftContext, Poison
from poisons.methods import rem_crafting as module
from poisons.methods.em_noise import Descent
from poisons.methods.rem import Rem
from poisons.methods.rem_crafting import FINAL, REM, SEARCH, TRAIN, WEIGHTS, robust_gradient
from tests.conftest import CPU
from trainers import Images, InputError
from trainers.checkpoint import Checkpoint
from trainers.defenses.pgd_at import PgdAt
from trainers.families import Normalised, Passes
from trainers.flops import network_flops
from trainers.loop import DivergenceError, Training, generator, train_step
from trainers.pgd import Frozen
from trainers.strided import subsample_first

SMALL: dict[str, Any] = {
    "generator": {"kind": "resnet18", "width": 4},
    "steps": 3,
    "attack_steps": 2,
    "samples": 2,
    "train_steps": 5,
    "batch_size": 16,
    "precision": "float32",
}
QUICK: dict[str, Any] = {**SMALL, "generator": "lenet5"}
SHORT: dict[str, Any] = {**SMALL, "steps": 1, "attack_steps": 1}
EPS, RADIUS = 8 / 255, 4 / 255
STEP, ATTACK_STEP = 8 / (5 * 255), 4 / (5 * 255)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For networks as small as these a second thread is only waited for."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is recorded after every step."""
    monkeypatch.setattr(module, "SECONDS", 0.0)


def rem(settings: dict[str, Any], **more: Any) -> Rem:
    return Rem.parse({**settings, **more}, "test")


class Draws:
    """The draws of flip_crop for `n` images: which are mirrored, and where their windows begin."""

    def __init__(self, n: int, gen: torch.Generator) -> None:
        self.mirrored = torch.randint(2, (n,), generator=gen).tolist()
        self.corners = torch.randint(9, (2, n), generator=gen).T.tolist()

    def view(self, x: Tensor) -> Tensor:
        """Each image mirrored, then cut out of itself with 4 zeros on each side."""
        views = []
        for image, mirrored, (top, left) in zip(x, self.mirrored, self.corners, strict=True):
            padded = F.pad(image.flip(2) if mirrored else image, (4, 4, 4, 4))
            views.append(padded[:, top : top + 32, left : left + 32])
        return torch.stack(views).contiguous(memory_format=torch.channels_last)

    def back(self, grad: Tensor) -> Tensor:
        """Values at the pixels of the views, each put where its pixel came from."""
        found = []
        for one, mirrored, (top, left) in zip(grad, self.mirrored, self.corners, strict=True):
            padded = torch.zeros(3, 40, 40)
            padded[:, top : top + 32, left : left + 32] = one
            inside = padded[:, 4:36, 4:36]
            found.append(inside.flip(2) if mirrored else inside)
        return torch.stack(found)


def gradient_at(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(x), labels), x)
    return grad


def attacked(model: nn.Module, x: Tensor, labels: Tensor, draw: Tensor) -> Tensor:
    """Two steps of PGD from a random start, as in `SMALL`; `draw` is uniform in [0, 1]."""
    delta = (x + ((2 * draw - 1) * RADIUS).clamp(-RADIUS, RADIUS)).clamp(0, 1) - x
    for _ in range(2):
        moved = delta + ATTACK_STEP * gradient_at(model, x + delta, labels).sign()
        delta = (x + moved.clamp(-RADIUS, RADIUS)).clamp(0, 1) - x
    return x + delta


def plain_noise(model: nn.Module, x: Tensor, labels: Tensor, gen: torch.Generator) -> Tensor:
    """The noise of a batch as in `SMALL`, without automatic differentiation of anything but the network."""
    model.eval()
    noise, twice = (2 * torch.rand(x.shape, generator=gen) - 1) * EPS, labels.repeat(2)
    for _ in range(3):
        noisy = x + noise
        draws = Draws(2 * len(x), gen)
        views = draws.view(torch.cat([noisy.clamp(0, 1)] * 2))
        at = attacked(model, views, twice, torch.rand(views.shape, generator=gen))
        first, second = draws.back(gradient_at(model, at, twice)).chunk(2)
        total = (first + second) * ((noisy >= 0) & (noisy <= 1))
        noise = (noise - STEP * total.sign()).clamp(-EPS, EPS)
    return noise


def plain_view(model: nn.Module, noisy: Tensor, labels: Tensor, gen: torch.Generator) -> Tensor:
    """What the generator is trained on: an attacked view of a batch with its noise."""
    views = Draws(len(noisy), gen).view(noisy)
    return attacked(model, views, labels, torch.rand(views.shape, generator=gen))


def plain_em_noise(model: nn.Module, x: Tensor, labels: Tensor, gen: torch.Generator) -> Tensor:
    """Error-minimising noise of a batch: signed steps down the loss, as that repository's EM makes them."""
    model.eval()
    noise = (2 * torch.rand(x.shape, generator=gen) - 1) * EPS
    for _ in range(3):
        noisy = x + noise
        grad = gradient_at(model, noisy.clamp(0, 1).contiguous(memory_format=torch.channels_last), labels)
        noise = (noise - STEP * (grad * ((noisy >= 0) & (noisy <= 1))).sign()).clamp(-EPS, EPS)
    return noise


def plain_crafting(
    settings: dict[str, Any],
    images: Images,
    seed: int,
    *,
    noise_of: Callable[..., Tensor] = plain_noise,
    view: Callable[..., Tensor] = plain_view,
) -> Tensor:
    """The levels of all images, as in the paper's algorithm: 5 steps on batches of 16, then all images."""
    poison = rem(settings)
    network = poison.generator.network(
        num_classes=4, shape=(3, 32, 32), seed=generator(CPU, seed, REM, WEIGHTS).initial_seed()
    )
    subsample_first(network)  # else the heap can be damaged, see trainers/strided.py
    model = network.to(memory_format=torch.channels_last)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    x, y = images.x.float() / 255, images.y
    turns = [rows for epoch in range(3) for rows in poison.epochs(40, seed=seed).epoch(epoch)]
    for step, rate in enumerate((0.1, 0.1, 0.01, 0.01, 0.001)):
        rows = turns[step]
        assert len(rows) == 16
        noise = noise_of(model, x[rows], y[rows], generator(CPU, seed, REM, SEARCH, step))
        noisy = (x[rows] + (noise * 255).round() / 255).clamp(0, 1)
        at = view(model, noisy, y[rows], generator(CPU, seed, REM, TRAIN, step))
        model.train()
        sgd.param_groups[0]["lr"] = rate
        sgd.zero_grad()
        F.cross_entropy(model(at), y[rows]).backward()
        sgd.step()
    found = []
    for first in range(0, 40, 16):
        some = slice(first, first + 16)
        gen = generator(CPU, seed, REM, FINAL, first)
        found.append((noise_of(model, x[some], y[some], gen) * 255).round())
    return torch.cat(found)


@pytest.mark.parametrize("settings", [SMALL, QUICK], ids=["resnet18", "lenet5"])
def test_the_noise_matches_a_plain_implementation(images: Images, settings: dict[str, Any]) -> None:
    """40 images make two batches of 16 for the generator, and a third one of 8 at the end."""
    crafted = rem(settings).craft(images, seed=5)
    assert torch.equal(crafted.delta.float(), plain_crafting(settings, images, 5))
    assert crafted.delta.any(3).any(2).any(1).all()


@pytest.mark.parametrize("settings", [SMALL, QUICK], ids=["resnet18", "lenet5"])
def test_without_attack_and_augmentation_all_of_it_is_error_minimising_noise(
    images: Images, settings: dict[str, Any]
) -> None:
    """The generator's training too, bit for bit."""
    plain = {**settings, "attack_eps": 0, "samples": 1, "augmentations": []}
    crafted = rem(plain).craft(images, seed=5)

    def view(model: nn.Module, noisy: Tensor, labels: Tensor, gen: torch.Generator) -> Tensor:
        return noisy.contiguous(memory_format=torch.channels_last)

    expected = plain_crafting(plain, images, 5, noise_of=plain_em_noise, view=view)
    assert torch.equal(crafted.delta.float(), expected)


def begun(poison: Rem, images: Images) -> Training:
    return Training.begin(poison._recipe(), images, seed=0, device=CPU)


@pytest.mark.parametrize("attack_eps", ["4/255", 0])
def test_the_gradient_is_the_sum_over_copies_at_their_adversarial_points(
    images: Images, attack_eps: Any
) -> None:
    """Each copy on its own; within 1e-4 of its largest value, since networks round batches differently."""
    poison, x, labels = rem(SMALL, attack_eps=attack_eps), images.x[:8].float() / 255, images.y[:8]
    training, noise = begun(poison, images), 0.1 * (torch.rand(x.shape, generator=generator(CPU, 1)) - 0.5)
    y = training.spec.targets(labels, 4)
    with Frozen(training.model):
        found = robust_gradient(training.model, training.spec, x, noise, y, generator(CPU, 2), copies=3)
        gen, total = generator(CPU, 2), torch.zeros_like(x)
        draws = Draws(24, gen)
        start = torch.rand((24, 3, 32, 32), generator=gen)
        for copy in range(3):
            mine = slice(8 * copy, 8 * copy + 8)
            one = Draws(0, generator(CPU))
            one.mirrored, one.corners = draws.mirrored[mine], draws.corners[mine]
            view = one.view((x + noise).clamp(0, 1))
            at = attacked(training.model, view, labels, start[mine]) if attack_eps else view
            total += one.back(gradient_at(training.model, at, labels)) / 3  # the loss is a mean over copies
    total *= (x + noise).clamp(0, 1) == x + noise
    assert total.abs().max() > 0
    assert torch.allclose(found, total, rtol=0, atol=1e-4 * float(total.abs().max()))
    outside = (x + noise).clamp(0, 1) != x + noise
    assert outside.any()
    assert not found[outside].any()


def test_without_attack_and_augmentation_it_is_plain_error_minimising_noise(images: Images) -> None:
    """On images whose noise is never clipped, which the two releases treat differently."""
    grey = Images(images.x // 2 + 64, images.y, 4)
    poison = rem(SMALL, attack_eps=0, samples=1, augmentations=[])
    training, x = begun(poison, grey), grey.x.float() / 255
    y = training.spec.targets(grey.y, 4)
    ours = poison.noise(training, x, y, generator(CPU, 3))
    start = (2 * torch.rand(x.shape, generator=generator(CPU, 3)) - 1) * EPS
    with Frozen(training.model):
        descent = Descent(
            model=training.model,
            recipe=training.spec,
            num_classes=4,
            eps=EPS,
            step=STEP,
            steps=3,
            seed=0,
            round=1,
        )
        theirs = descent(x, grey.y, start, 0)
    assert not torch.equal(ours, start)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)


def test_noise_lowers_the_loss_that_an_attacker_raises(images: Images) -> None:
    poison = rem(SMALL, steps=10, eps="32/255")
    training, x = begun(poison, images), images.x.float() / 255
    y = training.spec.targets(images.y, 4)
    noise = poison.noise(training, x, y, generator(CPU, 0))
    random = (2 * torch.rand(x.shape, generator=generator(CPU, 0)) - 1) * float(poison.eps)
    with Frozen(training.model):
        before, after = (
            F.cross_entropy(training.model(training.spec.defense.perturb(training.model, z, y, gen)), y)
            for z, gen in (((x + d).clamp(0, 1), generator(CPU, 1)) for d in (random, noise))
        )
    assert after < before


@pytest.mark.parametrize("eps", ["8/255", "26/765", "200/255"])
def test_the_budget_holds_after_rounding(images: Images, eps: str) -> None:
    delta = rem(QUICK, eps=eps, step=eps, train_steps=1).craft(images, seed=0)
    limit, (low, high) = int(Fraction(eps) * 255), (int(end) for end in delta.delta.aminmax())
    assert -limit <= low < 0 < high <= limit
    assert delta.delta.dtype == (torch.int8 if limit < 128 else torch.int16)
    assert delta.per == "image"
    assert not rem(QUICK).transfers


def test_the_generator_is_trained_on_whole_levels_within_the_budget(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def spy(training: Training, model: nn.Module, x: Tensor, *rest: Any, **more: Any) -> Any:
        seen.append(x)
        return train_step(training, model, x, *rest, **more)

    monkeypatch.setattr(module, "train_step", spy)
    poison = rem(QUICK, eps="26/765", train_steps=4)
    poison.craft(images, seed=0)
    turns = [rows for epoch in range(2) for rows in poison.epochs(40, seed=0).epoch(epoch)]
    assert len(seen) == 4
    for x, rows in zip(seen, turns, strict=True):
        levels = x * 255 - images.x[rows]
        assert torch.allclose(levels, levels.round(), rtol=0, atol=1e-3)
        assert 0 < levels.abs().max() < 8.5


def test_the_attack_stays_in_its_radius(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, perturb = [], PgdAt.perturb

    def spy(self: PgdAt, model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
        x_adv = perturb(self, model, x, y, gen)
        assert 0.5 * RADIUS < float((x_adv - x).abs().max()) <= RADIUS + 1e-6
        assert float(x_adv.min()) >= 0
        assert float(x_adv.max()) <= 1
        sizes.append(len(x))
        return x_adv

    monkeypatch.setattr(PgdAt, "perturb", spy)
    rem(QUICK, attack_step="3/255").craft(images, seed=0)
    assert sizes == 5 * [32, 32, 32, 16] + 3 * [32] + 3 * [32] + 3 * [16]


def test_the_network_is_in_eval_mode_in_the_search_and_in_train_mode_in_its_own_step(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes, forward = [], Normalised.forward

    def spy(self: Normalised, x: Tensor) -> Tensor:
        modes.append(self.training)
        return forward(self, x)

    monkeypatch.setattr(Normalised, "forward", spy)
    rem(QUICK, train_steps=2).craft(images, seed=0)
    search = [False] * 9  # three noise steps, each with two steps of the attack
    assert modes == 2 * [*search, False, False, True] + 3 * search


def test_equal_seeds_give_equal_noise_and_different_seeds_do_not(images: Images) -> None:
    once, again, other = (rem(QUICK).craft(images, seed=seed).delta for seed in (1, 1, 2))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_crafting_changes_neither_images_nor_random_state(images: Images) -> None:
    before, state = images.x.clone(), torch.random.get_rng_state()
    rem(QUICK).craft(images, seed=0)
    assert torch.equal(images.x, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_number_of_threads_changes_no_bit(images: Images) -> None:
    noise = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        noise.append(rem(SHORT, train_steps=2).craft(images, seed=0).delta)
        assert torch.get_num_threads() == threads
    assert torch.equal(noise[0], noise[1])
    assert torch.equal(noise[0], noise[2])


def test_bfloat16_stays_in_the_budget_and_is_recorded(images: Images) -> None:
    crafted = rem(SHORT, precision="bfloat16").craft(images, seed=5)
    assert crafted.facts()["precision"] == "bfloat16"
    assert 0 < int(crafted.delta.abs().max()) <= 8
    assert not torch.equal(crafted.delta, rem(SHORT).craft(images, seed=5).delta)
    auto = rem(SHORT, precision="auto").craft(images, seed=5)
    assert auto.facts()["precision"] in ("float32", "bfloat16")


class PowerError(Exception):
    """A power failure."""


DROPOUT = {**SHORT, "generator": "cct_2_3x2", "optimizer": "adamw", "drop_last": False}
RESUMED = pytest.mark.parametrize(
    ("settings", "cut", "after"),
    [
        (SHORT, ("step", 3), ("step", 2)),
        (SHORT, ("images", 32), ("images", 16)),
        (QUICK, ("images", 16), ("step", 5)),
        (DROPOUT, ("step", 4), ("step", 3)),
    ],
    ids=["training", "last_pass", "between", "dropout"],
)


@RESUMED
@pytest.mark.usefixtures("every_step")
def test_a_resumed_craft_gives_the_same_noise_bit_for_bit(
    images: Images, tmp_path: Path, settings: Any, cut: tuple[str, int], after: tuple[str, int]
) -> None:
    """Momentum, dropout, running statistics, batches and draws continue as without an interruption."""
    poison, rows = rem(settings), list[dict[str, Any]]()
    whole = poison.craft(images, seed=5, context=CraftContext(report=rows.append))
    context = CraftContext(checkpoint=Checkpoint(tmp_path / "checkpoint.pt", every=0))

    def killed(row: dict[str, Any]) -> None:
        if row[cut[0]] == cut[1]:
            raise PowerError

    with pytest.raises(PowerError):
        poison.craft(images, seed=5, context=replace(context, report=killed))
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]["history"]
    assert saved[-1][after[0]] == after[1]
    for _ in range(2):  # the second time, it was done already
        again: list[dict[str, Any]] = []
        resumed = poison.craft(images, seed=5, context=replace(context, report=again.append))
        assert torch.equal(resumed.delta, whole.delta)
        assert resumed.facts() == whole.facts()
        assert again == rows
    assert context.checkpoint is not None
    assert context.checkpoint.warnings == []


def test_progress_is_reported_now_and_then_and_at_the_end(
    images: Images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = []
    context = CraftContext(report=rows.append, checkpoint=Checkpoint(tmp_path / "c.pt", every=3600))
    facts = rem(QUICK).craft(images, seed=0, context=context).facts()
    assert [(row["step"], row["images"]) for row in rows] == [(5, 0), (5, 40)]
    assert not (tmp_path / "c.pt").exists()
    assert facts == {"steps": 5, "generator_accuracy": rows[-1]["accuracy"], "precision": "float32"}
    monkeypatch.setattr(module, "SECONDS", 0.0)
    rows.clear()
    rem(QUICK).craft(images, seed=0, context=context)
    seen = [(row["step"], row["images"]) for row in rows]
    assert seen == [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (5, 16), (5, 32), (5, 40)]


def last_row(**more: Any) -> list[dict[str, Any]]:
    return [{"step": 5, "images": 32, "loss": 1.0, "accuracy": 0.5, **more}]


DAMAGES: dict[str, dict[str, Any]] = {
    "no history": {"history": []},
    "a step too many": {"history": last_row(step=6)},
    "images before the end of the training": {"history": last_row(step=4)},
    "half a batch": {"history": last_row(images=20), "levels": torch.zeros(20, 3, 32, 32, dtype=torch.int8)},
    "images too many": {
        "history": last_row(images=48),
        "levels": torch.zeros(48, 3, 32, 32, dtype=torch.int8),
    },
    "no number": {"history": last_row(loss=float("nan"))},
    "no levels": {"levels": None},
    "levels of other images": {"levels": torch.zeros(32, 3, 8, 8, dtype=torch.int8)},
    "levels in floating point": {"levels": torch.zeros(32, 3, 32, 32)},
    "levels beyond the budget": {"levels": torch.full((32, 3, 32, 32), -128, dtype=torch.int8)},
    "no weights": {"model": {}},
    "no optimizer": {"optimizer": None},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.usefixtures("every_step")
def test_a_damaged_checkpoint_is_rejected_with_a_reason(
    images: Images, tmp_path: Path, damage: dict[str, Any]
) -> None:
    poison, file = rem(SHORT, generator="lenet5"), tmp_path / "checkpoint.pt"
    whole = poison.craft(images, seed=5)
    checkpoint = Checkpoint(file, every=0)

    def killed(row: dict[str, Any]) -> None:
        if row["images"] == 40:
            raise PowerError

    with pytest.raises(PowerError):
        poison.craft(images, seed=5, context=CraftContext(report=killed, checkpoint=checkpoint))
    state = torch.load(file, weights_only=True)["state"]
    checkpoint.save({**state, **damage}, owner=f"rem {poison.key}, seed 5")
    rows: list[dict[str, Any]] = []
    again = poison.craft(images, seed=5, context=CraftContext(report=rows.append, checkpoint=checkpoint))
    assert torch.equal(again.delta, whole.delta)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 5, 5, 5]
    assert len(checkpoint.warnings) == 1
    assert "was damaged (" in checkpoint.warnings[0]


@pytest.mark.usefixtures("every_step")
def test_a_checkpoint_is_for_its_own_craft(images: Images, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    rem(QUICK).craft(images, seed=0, context=CraftContext(checkpoint=Checkpoint(file, every=0)))
    for poison, seed in ((rem(QUICK), 1), (rem(QUICK, steps=2), 0)):
        with pytest.raises(InputError, match="belongs to another training"):
            poison.craft(images, seed=seed, context=CraftContext(checkpoint=Checkpoint(file)))


def test_a_diverging_generator_creates_no_data_set(images: Images) -> None:
    wild = rem(QUICK, optimizer={"kind": "sgd", "lr": 1e30})
    with pytest.raises(
        DivergenceError, match="the generator diverged within 5 steps; try a smaller optimizer"
    ):
        wild.craft(images, seed=0)


def test_the_estimate_counts_every_pass(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, forward = [0], Normalised.forward

    def spy(self: Normalised, x: Tensor) -> Tensor:
        seen[0] += len(x)
        return forward(self, x)

    for more in ({}, {"attack_eps": 0}, {"samples": 3, "train_steps": 2}):
        poison = rem(QUICK, **more)
        work = poison.work(40, shape=(3, 32, 32), num_classes=4)
        with monkeypatch.context() as patch:
            seen[0] = 0
            patch.setattr(Normalised, "forward", spy)
            poison.craft(images, seed=0)
        trained = 16 * poison.train_steps
        passes = Passes(forward=seen[0], backward=trained, inputs=seen[0] - trained)
        flops = network_flops(poison.generator, shape=(3, 32, 32), num_classes=4)
        assert work.flops == pytest.approx(flops.of(passes))


def test_defaults_are_those_published_for_cifar10() -> None:
    poison = Poison.parse("rem", "test")
    assert isinstance(poison, Rem)
    rates = [0.1 * poison.schedule.factor((step + 0.5) / 5000) for step in range(5000)]
    assert rates == pytest.approx([0.1] * 2000 + [0.01] * 2000 + [0.001] * 1000)
    assert isinstance(poison.attack, PgdAt)
    assert (poison.attack.budget.eps, poison.attack.step) == (Fraction(4, 255), Fraction(4, 5 * 255))
    assert poison._recipe().clip_norm is None
    assert poison.epochs(50_000, seed=0).batches == 390


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": "1/1000"}, "eps must be between 1/255"),
        ({"eps": 0.031}, "write `8/255`"),
        ({"step": 0}, "a step of 0 changes nothing"),
        ({"attack_step": 0}, "a step of 0 changes nothing"),
        ({"attack_eps": 4}, "attack_eps is at most 1, the whole pixel range; found 4; write 4/255"),
        (
            {"augmentations": ["mixup"]},
            "no gradient of single images passes 'mixup', so noise cannot descend: use 'flip_crop'",
        ),
        ({"augmentations": ["rand_augment"]}, "no gradient of single images passes 'rand_augment'"),
        ({"samples": 0}, "samples"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Rem.parse(settings, "test")


def few(number: int) -> Images:
    x = torch.randint(256, (number, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(x, torch.arange(number) % 4, 4)


def test_no_images_and_a_last_batch_of_one_are_refused_before_the_work() -> None:
    with pytest.raises(InputError, match="rem: noise is crafted from images, and there are none"):
        rem(QUICK).craft(few(0), seed=0)
    lone = {**QUICK, "generator": {"kind": "torchvision", "name": "resnet18"}, "batch_size": 4, "steps": 1}
    with pytest.raises(InputError, match="batch_size of the poison 4 leaves a last batch of 1 of 5 images"):
        rem(lone, drop_last=False, train_steps=2).check(few(5).extent)
    rem(lone, drop_last=False, train_steps=1).craft(few(5), seed=0)
    rem(lone, train_steps=2).craft(few(5), seed=0)
