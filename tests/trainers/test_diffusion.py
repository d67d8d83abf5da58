"""Diffusion against closed forms, and the defenses that use it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import CPU
from tests.trainers.test_d_vae import KilledError, epochs_trained
from trainers import Images, InputError
from trainers.checkpoint import Checkpoint
from trainers.defenses.avatar import Avatar
from trainers.defenses.eclipse import Eclipse
from trainers.diffusion import Curve, Diffusion
from trainers.families import Defense, Metrics
from trainers.images import Extent
from trainers.loop import generator
from trainers.restoration import RestorationContext
from trainers.unet import UNet, build, sinusoids

CURVES: tuple[tuple[Curve, int], ...] = (("linear", 1000), ("linear", 200), ("cosine", 4000))


@pytest.mark.parametrize(("curve", "steps"), CURVES)
def test_schedules_leave_ever_less_of_the_image(curve: Curve, steps: int) -> None:
    diffusion = Diffusion.of(curve, steps)
    assert len(diffusion) == steps
    assert (diffusion.left.diff() < 0).all()
    assert diffusion.left[0] > 0.998
    assert diffusion.left[-1] < 1e-4
    assert torch.allclose((1 - diffusion.added).cumprod(0), diffusion.left)


def test_the_linear_schedule_is_the_published_one() -> None:
    """0.0001 to 0.02 in 1,000 steps; after 100 of them 0.8952 of the variance is left (closed form)."""
    diffusion = Diffusion.of("linear", 1000)
    assert diffusion.added[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    exact = math.prod(1 - (1e-4 + i * (0.02 - 1e-4) / 999) for i in range(100))
    assert diffusion.left[99].item() == pytest.approx(exact, rel=1e-12)


@given(t=st.integers(0, 999), image=st.floats(-1, 1), x=st.floats(-3, 3))
def test_the_posterior_is_that_of_gaussian_conditioning(t: int, image: float, x: float) -> None:
    """The step before x_t has the prior N(sqrt(l') x0, 1 - l') and the likelihood N(x; sqrt(1 - b) z, b)."""
    diffusion = Diffusion.of("linear", 1000)
    added, before = diffusion.added[t].item(), diffusion.left[t - 1].item() if t else 1.0
    mean, variance = diffusion.posterior(torch.tensor(x).double(), torch.tensor(image).double(), t)
    if not t:
        assert variance == 0
        assert mean.item() == pytest.approx(image, abs=1e-6)
        return
    precision = 1 / (1 - before) + (1 - added) / added
    exact = (math.sqrt(before) * image / (1 - before) + math.sqrt(1 - added) * x / added) / precision
    assert variance == pytest.approx(1 / precision, rel=1e-9)
    assert mean.item() == pytest.approx(exact, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("curve", "steps"), [("linear", 1000), ("cosine", 4000)])
def test_the_best_denoiser_of_gaussian_images_keeps_their_distribution(curve: Curve, steps: int) -> None:
    """For pixels from N(m, s^2) the best prediction of the noise is linear; with it, whatever goes in, images
    from the same normal distribution come out, and what went in matters less the more noise there was."""
    diffusion, mean, spread = Diffusion.of(curve, steps), 0.2, 0.1

    def predict(x: Tensor, times: Tensor) -> Tensor:
        left = diffusion.left.float()[(times * (steps / 1000)).round().long()].view(-1, 1, 1, 1)
        total = left * spread**2 + 1 - left
        return (1 - left).sqrt() * (x - left.sqrt() * mean) / total

    gen = generator(CPU, 0)
    clean = mean + spread * torch.randn((8, 3, 32, 32), generator=gen)
    out = diffusion.denoised(predict, clean + 0.3, steps * 3 // 5, gen)
    assert out.mean().item() == pytest.approx(mean, abs=0.02)
    assert out.std().item() == pytest.approx(spread, rel=0.05)


def test_no_steps_are_the_identity() -> None:
    x = torch.rand(2, 3, 8, 8)

    def fail(x: Tensor, times: Tensor) -> Tensor:
        raise AssertionError

    assert Diffusion.of("linear", 1000).denoised(fail, x, 0, generator(CPU, 0)) is x


def test_the_loss_is_zero_for_the_noise_itself() -> None:
    diffusion, x = Diffusion.of("linear", 1000), torch.zeros(4, 1, 4, 4)

    def predict(noisy: Tensor, times: Tensor) -> Tensor:
        return noisy / (1 - diffusion.left.float()[times.long()]).sqrt().view(-1, 1, 1, 1)

    assert diffusion.loss(predict, x, generator(CPU, 0)).item() < 1e-10


def test_times_are_told_apart() -> None:
    codes = sinusoids(torch.arange(1000), 16)
    assert codes.shape == (1000, 16)
    assert torch.cdist(codes.double(), codes.double()).add(torch.eye(1000)).min() > 1e-2


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 16, 8), (2, 4, 4)])
@pytest.mark.parametrize("width", [3, 8])
def test_the_network_keeps_shapes_and_begins_with_no_noise(shape: tuple[int, int, int], width: int) -> None:
    net, x = build(shape, width=width, seed=0), torch.rand(2, *shape)
    out = net(x, torch.tensor([0.0, 999.0]))
    assert out.shape == x.shape
    assert not out.any()
    assert isinstance(net, UNet)


def restored(defense: Avatar, images: Images, **options: Any) -> Images:
    return defense.restore(images, None, RestorationContext(CPU, **options)).images


def smooth(n: int) -> Images:
    """Images of one colour each."""
    level = torch.randint(64, 192, (n, 1, 1, 1), generator=torch.Generator().manual_seed(0))
    return Images(level.expand(n, 1, 8, 8).to(torch.uint8).contiguous(), torch.arange(n) % 2, 2)


def test_noise_is_taken_away_from_images_like_those_learnt() -> None:
    """A perturbation that the clean images do not have goes; the images stay."""
    clean = smooth(256)
    signs = torch.randint(2, (256, 1, 8, 8), generator=torch.Generator().manual_seed(1)) * 2 - 1
    dirty = Images((clean.x.int() + 16 * signs).clamp(0, 255).to(torch.uint8), clean.y, 2)
    defense = Avatar(
        width=8, denoiser_epochs=60, denoiser_batch_size=32, denoiser_lr=2e-3, denoiser_ema=0.9, time=60
    )
    out = defense.restore(dirty, clean, RestorationContext(CPU))
    error = (out.images.x.float() - clean.x.float()).square().mean().sqrt().item()
    assert error < 10 < 16
    assert out.facts["learnt_from"] == 256


@pytest.mark.parametrize("learns_from", ["clean", "held_out", "training"])
def test_time_0_changes_nothing_and_needs_nothing(learns_from: str, images: Images) -> None:
    defense = Avatar.parse({"time": 0, "learns_from": learns_from}, "test")
    assert defense.clean_images is None
    assert defense.restore(images, None, RestorationContext(CPU)).images is images


def cached() -> Callable[[str, Callable[[], Tensor]], Tensor]:
    """A cache in memory."""
    known = dict[str, Tensor]()

    def cache(name: str, make: Callable[[], Tensor]) -> Tensor:
        if name not in known:
            known[name] = make()
        return known[name]

    return cache


def killed_at(row: dict[str, Any]) -> Any:
    """A report that is killed by this row."""

    def report(found: Metrics) -> None:
        if found.items() >= row.items():
            raise KilledError

    return report


@pytest.mark.parametrize(
    ("row", "epochs", "batches"), [({"epoch": 3}, [3], 3), ({"restored": 1.0}, [], 1)], ids=["epoch", "batch"]
)
def test_a_killed_purification_goes_on_where_it_was(
    row: dict[str, Any],
    epochs: list[int],
    batches: int,
    images: Images,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The average of the denoiser's weights, its epochs, and the batches that it has denoised are kept."""
    images = images.subset(40)
    fields = {"width": 4, "time": 3, "denoiser_epochs": 3, "denoiser_batch_size": 16, "denoiser_ema": 0.9}
    defense = Avatar.parse({**fields, "learns_from": "training"}, "test")
    whole, cache = restored(defense, images), cached()

    def context(report: Any) -> RestorationContext:
        checkpoint = Checkpoint(tmp_path / "checkpoint.pt", every=0)
        return RestorationContext(CPU, report=report, checkpoint=checkpoint, cache=cache)

    with pytest.raises(KilledError):
        defense.restore(images, None, context(killed_at(row)))
    trained, rows = epochs_trained(monkeypatch), list[Metrics]()
    resumed = defense.restore(images, None, context(rows.append))
    assert torch.equal(resumed.images.x, whole.x)
    assert (trained, sum("restored" in found for found in rows)) == (epochs, batches)


@pytest.mark.parametrize("damage", ["restored", "random"])
def test_damage_to_what_was_denoised_costs_no_more_than_that(
    damage: str, images: Images, tmp_path: Path
) -> None:
    images, checkpoint = images.subset(40), Checkpoint(tmp_path / "checkpoint.pt", every=0)
    defense = Avatar.parse({**Avatar.smoke, "width": 4, "denoiser_batch_size": 16}, "test")
    report, cache = killed_at({"restored": 0.8}), cached()
    with pytest.raises(KilledError):
        defense.restore(images, None, RestorationContext(CPU, 0, report, checkpoint, cache))
    owner = f"avatar {defense.key}, seed 0"
    state = checkpoint.load(owner=owner)
    assert state is not None
    checkpoint.save(state | {damage: torch.zeros(3)}, owner=owner)
    resumed = defense.restore(images, None, RestorationContext(CPU, checkpoint=checkpoint, cache=cache))
    assert torch.equal(resumed.images.x, restored(defense, images).x)
    assert any("damaged" in warning for warning in checkpoint.warnings)


def test_a_seed_gives_the_same_images(images: Images) -> None:
    one = Avatar.parse({**Avatar.smoke, "denoiser_batch_size": 16}, "test")
    assert torch.equal(restored(one, images).x, restored(one, images).x)
    assert not torch.equal(restored(one, images).x, restored(one, images, seed=1).x)


def test_images_whose_sides_cannot_be_halved_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"avatar: .*multiples of 4; found 30x32: give the source another size"
    ):
        Avatar().check(Extent(10, (3, 30, 32), 4))
    with pytest.raises(InputError, match=r"eclipse: images have 1 or 3 channels.*found 2"):
        Eclipse().check(Extent(10, (2, 32, 32), 4))


def test_eclipse_corrupts_batches_image_by_image() -> None:
    x, defense = torch.rand(400, 3, 4, 4), Eclipse(std=0.0)
    out = defense.perturb(torch.nn.Identity(), x, torch.empty(0), generator(CPU, 0))
    grey = (out == out[:, :1]).all((1, 2, 3))
    assert 0.3 < grey.float().mean() < 0.5
    assert torch.equal(out[~grey], x[~grey])
    luma = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    assert torch.allclose(out[grey][:, 0], luma[grey], atol=1e-6)
    noisy = Eclipse(grey=0.0).perturb(torch.nn.Identity(), torch.full_like(x, 0.5), x, generator(CPU, 0))
    assert (noisy - 0.5).std().item() == pytest.approx(0.05, rel=0.05)


def test_its_model_learns_from_others() -> None:
    assert Defense.parse("eclipse", "test").restoration is not None
    wanted = Eclipse().clean_images
    assert wanted is not None
    assert (wanted.origin, wanted.number) == ("held_out", 2000)
    clean = Avatar().clean_images
    assert clean is not None
    assert clean.origin == "clean"
    assert Avatar(learns_from="training").clean_images is None
