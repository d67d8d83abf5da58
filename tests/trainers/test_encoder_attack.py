"""Attacks on encoders: a closed form, budgets and schedules; the autoencoder; what JPEG leaves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from poisons import CraftContext
from poisons.methods.photoguard import PhotoGuard
from tests.conftest import CPU
from tests.trainers.subjects import random_images, subject
from trainers import Images, InputError, TrainSpec
from trainers.autoencoder import Autoencoder, fit_autoencoder
from trainers.encoder_attack import displaced
from trainers.images import Extent, to_float
from trainers.jpeg import jpeg
from trainers.loop import generator
from trainers.pictured import psnr
from trainers.probes.encoder_attack import EncoderAttack
from trainers.recipe import repeatable


class Linear(nn.Module):
    """Codes are sums of pixels."""

    def __init__(self, values: int, size: int) -> None:
        super().__init__()
        gen = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn((size, values), generator=gen), requires_grad=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = x.flatten(1) @ self.weight.mT
        return code, code


def linear(values: int = 48, size: int = 3) -> Autoencoder:
    return Autoencoder(Linear(values, size), nn.Identity(), 0.0)  # type: ignore[arg-type]


def test_steps_on_a_linear_encoder_are_its_closed_form() -> None:
    """The gradient of |Wz - t|² is 2 Wᵀ(Wz - t); steps shrink evenly to a hundredth."""
    found, images = linear(), random_images(5, (3, 4, 4))
    x, target, weight = (
        to_float(images.x).double(),
        torch.tensor([1.0, -2.0, 0.5]),
        found.encoder.get_parameter("weight"),
    )
    eps, step, steps = 0.05, 0.02, 7
    z = displaced(
        found, x.float(), target, eps=eps, step=step, steps=steps, gen=torch.Generator().manual_seed(3)
    )
    start = 2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) - 1
    wanted = (x + start.double() * eps).clamp(0, 1)
    for i in range(steps):
        grad = (wanted.flatten(1) @ weight.double().mT - target) @ weight.double()
        size = step * (1 - 0.99 * i / steps)
        wanted = (x + (wanted - size * grad.view_as(x).sign() - x).clamp(-eps, eps)).clamp(0, 1)
    assert torch.allclose(z.double(), wanted, atol=1e-6)
    assert (z - x.float()).abs().max() <= eps + 1e-6


def test_images_at_their_target_stay_near_it() -> None:
    found, images = linear(), random_images(5, (3, 4, 4))
    x = to_float(images.x)
    settings: dict[str, Any] = {"eps": 0.05, "step": 0.02, "steps": 100}
    own = displaced(found, x, found.code(x), gen=torch.Generator().manual_seed(0), **settings)
    away = displaced(found, x, torch.zeros(3), gen=torch.Generator().manual_seed(0), **settings)
    moved = [(found.code(z) - found.code(x)).norm(dim=1).mean() for z in (own, away)]
    assert moved[0] < moved[1] / 20


@pytest.fixture(scope="module")
def smooth() -> Images:
    """Stripes of two directions, with phases of their own."""
    gen = torch.Generator().manual_seed(0)
    y = torch.arange(120) % 2
    phase = 6.3 * torch.rand((120, 1, 1), generator=gen)
    at = torch.arange(16).float()
    across = torch.where((y == 0)[:, None, None], at[None, :, None], at[None, None, :])
    x = 0.5 + 0.4 * torch.sin(across / 2 + phase)
    return Images((x * 255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1).contiguous(), y, 2)


def trained(images: Images, **more: Any) -> Autoencoder:
    settings = {"size": 8, "width": 8, "epochs": 40, "batch_size": 20, "lr": 3e-3, "beta": 1e-3, "seed": 0}
    return fit_autoencoder(images, CPU, **{**settings, **more})


def test_an_autoencoder_learns_more_than_the_mean_image(smooth: Images) -> None:
    before, rows = torch.get_rng_state(), list[dict[str, float]]()
    found = trained(smooth, report=rows.append)
    assert torch.equal(torch.get_rng_state(), before)
    x = to_float(smooth.x)
    mean = (x - x.mean(0)).square().mean().item()
    with torch.no_grad():
        assert (found.decoder(found.code(x)) - x).square().mean() < mean / 4
    assert found.error < mean / 3
    assert len(rows) == 40
    assert rows[-1]["error"] == round(found.error, 6)
    parts = [*found.encoder.parameters(), *found.decoder.parameters()]
    assert not any(part.requires_grad for part in parts)
    assert not found.decoder.training
    again = trained(smooth)
    assert torch.equal(again.code(x), found.code(x))


def test_an_attack_moves_codes_further_than_random_signs(smooth: Images) -> None:
    probe = EncoderAttack(limit=20, steps=40, vae_epochs=20, vae_width=8, vae_code=8, qualities=(100, 50))
    given = replace(subject(nn.Identity(), smooth, smooth), seed=1)
    with repeatable():
        found = probe.run(given)
    metrics = found.metrics
    assert set(metrics) == set(probe.metrics)
    assert metrics["random"] < 1 / 1.5
    assert 0.4 < metrics["left_100"] < 0.8, "4:2:0 halves the resolution of colours, in which the noise is"
    assert metrics["control_100"] < 0.2
    assert metrics["attacked_psnr"] < metrics["decoded_psnr"]
    assert len(found.fields["images"]) == 4 * probe.pictured
    assert probe.run(given) == found


def test_the_shares_are_distances_after_jpeg() -> None:
    """With an encoder whose codes can be computed by hand."""
    found, probe = linear(3 * 8 * 8), EncoderAttack(qualities=(60,))
    x, moved, signs = (random_images(n).x[:4] for n in (4, 5, 6))
    shares = probe._shares(found, x, moved, signs)
    weight = found.encoder.get_parameter("weight")

    def apart(images: Tensor) -> float:
        difference = (images.double() - x.double()).flatten(1) / 255 @ weight.double().mT
        return difference.norm(dim=1).mean().item()

    assert shares["displacement"] == pytest.approx(apart(moved), rel=1e-5)
    assert shares["random"] == pytest.approx(apart(signs) / apart(moved), rel=1e-5)
    assert shares["left_60"] == pytest.approx(apart(jpeg(moved, 60)) / apart(moved), rel=1e-5)
    assert shares["control_60"] == pytest.approx(apart(jpeg(x, 60)) / apart(moved), rel=1e-5)


def test_psnr() -> None:
    x = torch.full((2, 1, 4, 4), 0.5)
    assert psnr(x, x + 0.1) == pytest.approx(20, abs=1e-4)
    assert psnr(x, x) == 100


@pytest.mark.parametrize("towards", ["zero", "grey"])
def test_the_poison_moves_codes_within_its_budget(towards: str, smooth: Images) -> None:
    settings = {"towards": towards, "vae_epochs": 20, "vae_width": 8, "vae_code": 8, "steps": 30}
    poison = PhotoGuard.parse(settings, "test")
    crafted = poison.craft(smooth, seed=0)
    assert crafted.delta.abs().max() == 7, "0.03 of 255, rounded down"
    found = poison._autoencoder(smooth, 0, CraftContext())
    x, z = to_float(smooth.x), to_float(crafted.apply(smooth).x)
    target = poison._target(found, smooth, CPU)
    before, after = ((found.code(one) - target).norm(dim=1).mean() for one in (x, z))
    assert after < before
    shift = (found.code(z) - found.code(x)).norm(dim=1).mean().item()
    assert crafted.facts()["displacement"] == pytest.approx(shift, rel=0.1)
    gen = generator(CPU, 5, 1)
    noise = (torch.rand(x.shape, generator=gen) < 0.5).float() * 2 - 1
    chance = (found.code((x + 7 / 255 * noise).clamp(0, 1)) - found.code(x)).norm(dim=1).mean().item()
    assert shift > 1.5 * chance


def test_what_cannot_be_compressed_or_learnt_from_is_refused() -> None:
    two = Extent(10, (2, 8, 8), 2)
    with pytest.raises(InputError, match="compresses images as JPEG, which are grey or RGB; these have 2"):
        EncoderAttack().check_extents(TrainSpec(), two, two, {})
    grey, one = Extent(10, (1, 8, 8), 2), Extent(1, (1, 8, 8), 2)
    with pytest.raises(InputError, match="needs a JPEG quality"):
        EncoderAttack(qualities=()).check_extents(TrainSpec(), grey, grey, {})
    with pytest.raises(InputError, match=r"the autoencoder of the probe .* learns from two images or more"):
        EncoderAttack().check_extents(TrainSpec(), one, grey, {})
    with pytest.raises(InputError, match="eps must be between 1/255"):
        EncoderAttack.parse({"eps": "1/1000"}, "test")
    with pytest.raises(InputError, match="batch_size"):
        PhotoGuard.parse({"batch_size": 1}, "test")
    with pytest.raises(InputError, match="an autoencoder learns from two images or more"):
        PhotoGuard().check(Extent(1, (1, 8, 8), 2))
