"""Noise against several checkpoints of one training, and shifts of colours, against plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor, nn
from torch.nn import functional as F

from poisons import CraftContext, DataSpec, Store
from poisons.methods.descent import DRAWS, STREAM
from poisons.methods.dune import WINDOW, Dune, Judge, psnr, ssim
from poisons.methods.particles import Swarm
from poisons.methods.sep import Sep, means_of
from poisons.rng import rng
from poisons.surrogate import STREAM as SURROGATE_STREAM
from poisons.surrogate import surrogate
from tests.conftest import CPU
from tests.poisons.test_fixed_network import SURROGATE, KilledError, Three, learnable
from trainers import Images, InputError
from trainers.loop import fit, generator
from trainers.recipe import TrainSpec, one_thread, repeatable

__all__ = ["learnable"]
SMALL: dict[str, Any] = {
    "surrogate": SURROGATE,
    "checkpoints": 2,
    "steps": 3,
    "batch_size": 16,
    "augmentations": [],
    "offset": 1,
    "eps": "8/255",
}


def models_of(poison: Any, clean: Images) -> tuple[nn.Module, ...]:
    return surrogate(poison.surrogate, clean, 0, CraftContext(), checkpoints=poison.networks).models


def head_name(model: nn.Module) -> str:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]


def head(model: nn.Module) -> nn.Module:
    return model.get_submodule(head_name(model))


def test_checkpoints_are_those_of_the_training(learnable: Images) -> None:
    spec = TrainSpec.parse(SURROGATE, "test")
    found = surrogate(spec, learnable, 0, CraftContext(), checkpoints=3)
    wanted: dict[int, dict[str, Tensor]] = {}

    def keep(model: nn.Module, row: dict[str, float]) -> dict[str, float]:
        wanted[int(row["epoch"])] = {name: value.clone() for name, value in model.state_dict().items()}
        return {}

    seed = generator(CPU, 0, SURROGATE_STREAM).initial_seed()
    with one_thread(CPU):
        fit(spec, learnable, learnable.subset(500), seed=seed, device=CPU, watches={"all": keep})
    for model, epoch in zip(found.models, (3, 6, 10), strict=True):
        assert not model.training
        for name, value in model.state_dict().items():
            assert torch.equal(value, wanted[epoch][name]), (epoch, name)
    (alone,) = surrogate(spec, learnable, 0, CraftContext()).models
    for name, value in alone.state_dict().items():
        assert torch.equal(value, wanted[10][name]), name


def pulls(poison: Sep | Dune, model: nn.Module, clean: Images, z: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the loss of one network, summed over images."""
    z = z.detach().requires_grad_()
    other = (labels + poison.offset) % clean.num_classes
    if isinstance(poison, Dune) or poison.towards == "label":
        logits = model(z.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, other, reduction="sum")
    else:
        found: list[Tensor] = []
        with head(model).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0])):
            model(z.contiguous(memory_format=torch.channels_last))
        means = means_of(model, head_name(model), clean)
        loss = (found[0] - means[other]).square().mean(1).sum()
    return torch.autograd.grad(loss, z)[0]


def test_mean_features_are_those_of_each_class(learnable: Images) -> None:
    (model,) = surrogate(TrainSpec.parse(SURROGATE, "test"), learnable, 0, CraftContext()).models
    found: list[Tensor] = []
    with torch.no_grad(), head(model).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0])):
        model(learnable.x.float() / 255)
    for k, mean in enumerate(means_of(model, head_name(model), learnable)):
        assert torch.allclose(mean, found[0][learnable.y == k].mean(0), atol=1e-5)


def plain(poison: Sep | Dune, clean: Images) -> Tensor:
    """The noise of a sweep over all images, batch by batch."""
    models, found = models_of(poison, clean), []
    eps, step = float(poison.eps), float(poison.step_length)

    def move(x: Tensor, z: Tensor, grad: Tensor) -> Tensor:
        return (x + (z - x - step * grad.sign()).clamp(-eps, eps)).clamp(0, 1)

    with repeatable():
        for batch, start in enumerate(range(0, len(clean), poison.batch_size)):
            some = slice(start, start + poison.batch_size)
            x, labels = clean.x[some].float() / 255, clean.y[some]
            z, host = x, generator(CPU, 0, STREAM, 0, batch, DRAWS)
            for _ in range(poison.steps):
                grads = [pulls(poison, model, clean, z, labels) for model in models]
                mean = sum(grads, torch.zeros_like(z)) / len(grads)
                if isinstance(poison, Dune) or not poison.variance_reduced:
                    z = move(x, z, mean)
                    continue
                inner, total = z, torch.zeros_like(z)
                for i in torch.randint(len(models), (len(models),), generator=host).tolist():
                    total = total + pulls(poison, models[i], clean, inner, labels) - (grads[i] - mean)
                    inner = move(x, inner, total)
                z = move(x, z, total)
            found.append(((z - x).double() * 255).round())
    return torch.cat(found)


@pytest.mark.parametrize(
    "settings",
    [
        {"towards": "label", "variance_reduced": False},
        {"towards": "features", "variance_reduced": False},
        {"towards": "features"},
        {"towards": "label"},
        {"towards": "features", "eps": "2/255"},
    ],
    ids=["SEP", "SEP-FA", "SEP-FA-VR", "SEP-VR", "as published"],
)
def test_noise_is_that_of_a_plain_loop(settings: dict[str, Any], learnable: Images) -> None:
    poison = Sep.parse(SMALL | settings, "test")
    crafted = poison.craft(learnable, seed=0).delta.double()
    assert crafted.abs().max() > 0
    assert torch.equal(crafted, plain(poison, learnable))


def test_features_move_to_the_mean_of_the_other_class(learnable: Images) -> None:
    poison = Sep.parse({**SMALL, "eps": "32/255", "steps": 20, "step": "4/255"}, "test")
    poisoned = poison.craft(learnable, seed=0).apply(learnable)
    for model in models_of(poison, learnable):
        means, distances = means_of(model, head_name(model), learnable), []
        for images in (learnable, poisoned):
            found: list[Tensor] = []
            layer = head(model)
            with torch.no_grad(), layer.register_forward_pre_hook(lambda _, i, to=found: to.append(i[0])):
                model(images.x.float() / 255)
            distances.append((found[0] - means[(images.y + 1) % 4]).square().sum(1).mean().item())
        assert distances[1] < 0.7 * distances[0]


def test_a_class_without_images_is_no_aim(learnable: Images) -> None:
    three, poison = learnable.take((learnable.y < 3).nonzero().squeeze(1)), Sep.parse(SMALL, "test")
    rows: list[dict[str, Any]] = []
    with pytest.raises(InputError, match="sep: class 3, at which others aim, has no images"):
        poison.craft(three, seed=0, context=CraftContext(report=rows.append))
    assert not rows  # before a surrogate is trained
    Sep.parse({**SMALL, "towards": "label"}, "test").check_images(three)


@pytest.mark.parametrize("kind", [Sep, Dune])
def test_settings_that_make_no_sense(kind: Any, learnable: Images) -> None:
    with pytest.raises(InputError, match="11 checkpoints of a surrogate that is trained for 10 epochs"):
        kind.parse({**SMALL, "checkpoints": 11}, "test")
    with pytest.raises(InputError, match="an offset of 4 among 4 classes is its own: write offset: 2"):
        kind.parse({**SMALL, "offset": 4}, "test").check(learnable.extent)
    with pytest.raises(InputError, match="a surrogate tells classes apart, and there is only one"):
        kind.parse(SMALL, "test").check(replace(learnable.extent, num_classes=1))
    with pytest.raises(InputError, match="noise starts at zero, and is published without restarts"):
        kind.parse({**SMALL, "restarts": 2}, "test")


def test_dune_refuses_images_smaller_than_a_window() -> None:
    tiny = Images(torch.zeros((4, 3, 6, 6), dtype=torch.uint8), torch.arange(4), 4)
    with pytest.raises(InputError, match="dune: SSIM needs images of 7 pixels a side"):
        Dune.parse(SMALL, "test").check(tiny.extent)


def test_ssim_is_that_of_scipys_windows() -> None:
    gen = torch.Generator().manual_seed(0)
    x = torch.rand((3, 2, 12, 10), generator=gen)
    y = (x + 0.2 * torch.randn(x.shape, generator=gen)).clamp(0, 1)
    found, edge, sample = ssim(x.double(), y.double()), WINDOW // 2, 49 / 48
    for n in range(3):
        scores = []
        for a, b in zip(x[n].double().numpy(), y[n].double().numpy(), strict=True):
            ma, mb = uniform_filter(a, WINDOW), uniform_filter(b, WINDOW)
            va, vb = uniform_filter(a * a, WINDOW) - ma * ma, uniform_filter(b * b, WINDOW) - mb * mb
            vab = uniform_filter(a * b, WINDOW) - ma * mb
            score = (2 * ma * mb + 1e-4) * (2 * sample * vab + 9e-4)
            score /= (ma**2 + mb**2 + 1e-4) * (sample * (va + vb) + 9e-4)
            scores.append(score[edge:-edge, edge:-edge].mean())
        assert found[n].item() == pytest.approx(sum(scores) / 2, abs=1e-12)
    assert torch.allclose(ssim(x, x), torch.ones(3))
    assert psnr(x, (x + 0.1)).tolist() == pytest.approx([20.0] * 3, abs=1e-4)
    assert psnr(x, x).tolist() == [math.inf] * 3


def test_a_swarm_finds_the_minimum_and_keeps_it() -> None:
    goal = torch.tensor([0.03, -0.06, 0.01], dtype=torch.float64)
    swarm = Swarm.begin(30, 3, torch.Generator().manual_seed(0), 0.1, 0.01)
    lowest = math.inf
    for _ in range(60):
        values = (swarm.positions - goal).square().sum(1).tolist()
        lowest = min(lowest, *values)
        swarm = swarm.judged(values).moved()
        assert swarm.value == lowest
        assert (swarm.best - goal).square().sum().item() == pytest.approx(lowest)
    assert lowest < 1e-6


def test_a_swarm_moves_as_published() -> None:
    """One particle at a time, in plain Python."""
    swarm = Swarm.begin(3, 2, torch.Generator().manual_seed(1), 0.1, 0.01)
    position, velocity = swarm.positions.tolist(), swarm.velocities.tolist()
    own, values = [list(p) for p in position], [math.inf] * 3
    best, value = [0.0, 0.0], math.inf

    def cost(p: list[float]) -> float:
        return math.nan if p[0] > 0.09 else (p[0] - 0.02) ** 2 + abs(p[1])

    for _ in range(5):
        for i in range(3):
            found = cost(position[i])
            if found < values[i]:
                own[i], values[i] = list(position[i]), found
            if found < value:
                best, value = list(position[i]), found
        for i in range(3):
            for k in range(2):
                pull = 0.3 * (own[i][k] - position[i][k]) + 0.3 * (best[k] - position[i][k])
                velocity[i][k] = 0.5 * velocity[i][k] + pull
                position[i][k] += velocity[i][k]
        swarm = swarm.judged([cost(p) for p in swarm.positions.tolist()]).moved()
        assert torch.allclose(swarm.positions, torch.tensor(position, dtype=torch.float64), atol=1e-12)
        assert swarm.best.tolist() == pytest.approx(best)


def test_dune_adds_the_best_shift_of_each_class_to_its_noise(learnable: Images) -> None:
    settings = SMALL | {"step": "3/255", "particles": 3, "rounds": 2, "shift_images": 6}
    poison = Dune.parse(settings, "test")
    crafted = poison.craft(learnable, seed=0)
    models = models_of(poison, learnable)
    shifts = torch.tensor(crafted.facts()["shifts"])
    noise = crafted.delta - shifts[learnable.y][:, :, None, None]
    assert crafted.facts()["note"].startswith("a reconstruction")
    assert noise.abs().max() == 8
    assert torch.equal(noise.double(), plain(poison, learnable))
    for label in range(4):
        some = learnable.take((learnable.y == label).nonzero().squeeze(1)[:6])
        swarm, tried = Swarm.begin(3, 3, rng(0, f"dune {label}"), 0.1, 0.01), []
        for _ in range(2):
            values = []
            for shift in swarm.positions:
                moved = (some.x.float() / 255 + shift.float()[:, None, None]).clamp(0, 1)
                loss = sum(F.cross_entropy(model(moved), (some.y + 1) % 4) for model in models) / 2
                clean = some.x.float() / 255
                missing = (20 - psnr(clean, moved)).clamp(min=0) + (0.8 - ssim(clean, moved)).clamp(min=0)
                values.append((loss + missing.mean()).item())
                tried.append((values[-1], shift))
            swarm = swarm.judged(values).moved()
        assert swarm.value == pytest.approx(min(tried, key=lambda pair: pair[0])[0])
        wanted = (swarm.best * 255).round()
        assert shifts[label].tolist() == wanted.tolist()
        judge = Judge(poison, models, some, CPU)
        assert judge(tried[0][1]) == pytest.approx(tried[0][0], rel=1e-4)


def test_the_shifts_of_a_killed_crafting_are_not_searched_again(store: Store) -> None:
    settings = {**SMALL, "checkpoints": 1, "particles": 2, "rounds": 1, "shift_images": 2}
    data = {"source": {"kind": "digits", "size": 16}, "limit": 60, "poison": {"kind": "dune", **settings}}
    spec = DataSpec.parse(data, "test").pinned()

    def killed(row: dict[str, Any]) -> None:
        if row.get("class") == 4:
            raise KilledError

    with pytest.raises(KilledError):
        store.ensure(spec, CraftContext(report=killed))
    kept = {path.name: path.stat().st_mtime_ns for path in store.root.glob("statistics/*/dune-*-0-*.arrow")}
    assert len(kept) == 5
    rows: list[dict[str, Any]] = []
    built = store.ensure(spec, CraftContext(report=rows.append))
    assert [row["class"] for row in rows if "class" in row] == list(range(10))
    after = {path.name: path.stat().st_mtime_ns for path in store.root.glob("statistics/*/dune-*-0-*.arrow")}
    assert kept.items() <= after.items()
    crafted = spec.poison[0].craft(store.ensure(spec.clean), seed=0)
    assert torch.equal(built.x, crafted.apply(store.ensure(spec.clean)).x)


@pytest.mark.parametrize("kind", [Sep, Dune])
def test_any_split_gives_the_same_bits(kind: Any, learnable: Images) -> None:
    settings = {**SMALL, "batch_size": 8, "steps": 2}
    if kind is Dune:
        settings |= {"particles": 2, "rounds": 1, "shift_images": 2}
    poison = kind.parse(settings, "test")
    alone = poison.craft(learnable, seed=0)
    shared = poison.craft(learnable, seed=0, context=CraftContext(workers=Three()))
    assert torch.equal(alone.delta, shared.delta)


def test_an_ensemble_is_trained_once(store: Store) -> None:
    rows: list[dict[str, Any]] = []
    small = {**SMALL, "eps": "2/255"}
    specs = [
        DataSpec.parse(
            {"source": {"kind": "digits", "size": 16}, "limit": 60, "poison": poison, "seed": seed}, "test"
        ).pinned()
        for poison, seed in (({"kind": "sep", **small}, 0), ({"kind": "sep", **small, "towards": "label"}, 1))
    ]
    for spec in specs:
        store.ensure(spec, CraftContext(report=rows.append))
    assert len([row for row in rows if row.get("surrogate_epoch") == 1]) == 1
    assert specs[0].shares == specs[1].shares is not None
