"""Diffusion against closed forms, and the defenses that use it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import CPU
from trainers import Images, InputError
from trainers.defenses.avatar import Avatar
from trainers.defenses.eclipse import Eclipse
from trainers.diffusion import Curve, Diffusion
from trainers.families import Defense
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


def test_time_0_changes_nothing(images: Images) -> None:
    out = Avatar(time=0).restore(images, None, RestorationContext(CPU))
    assert out.images is images


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
