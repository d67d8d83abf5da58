"""D-VAE: its loss against closed forms, its stages, its resumption."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import CPU
from trainers import Images, InputError
from trainers.checkpoint import Checkpoint
from trainers.defenses.d_vae import DVae
from trainers.families import Metrics
from trainers.generative import _Training
from trainers.images import Extent
from trainers.loop import DivergenceError, OutOfMemoryError, generator
from trainers.restoration import RestorationContext
from trainers.vae import Parts, bits, build, vae_loss

TINY = DVae(width=4, latent=8, vae_epochs=3, vae_batch_size=16)


def parts(image: float, perturbation: float, mean: float = 0.0, log_variance: float = 0.0) -> Parts:
    x, code = torch.ones(2, 3, 4, 4), torch.ones(2, 5, 2, 2)
    return Parts(image * x, perturbation * x, mean * code, log_variance * code)


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, 0.0), (1.5, 0.0), (0.3, -2.0), (-1.0, 0.7)])
def test_the_rate_is_the_divergence_from_a_standard_normal_code(mean: float, log_variance: float) -> None:
    found = bits(parts(0.5, 0.0, mean, log_variance)).item()
    code = torch.distributions.Normal(torch.tensor(mean), torch.tensor(math.exp(log_variance / 2)))
    exact = torch.distributions.kl_divergence(code, torch.distributions.Normal(0.0, 1.0))
    assert found == pytest.approx(5 * exact.item(), rel=1e-5, abs=1e-6)


def test_the_terms_of_the_loss() -> None:
    x = torch.full((2, 3, 4, 4), 0.5)

    def loss(found: Parts, **options: Any) -> float:
        return vae_loss(found, x, **{"rate": 1.0, "weight": 0.01, "limit": None, **options}).item()

    assert loss(parts(0.5, 0.0)) == pytest.approx(0.01)  # a rate below 1 costs as much as 1
    assert loss(parts(0.4, 0.1)) == pytest.approx(
        0.01 + 0.01
    )  # the image is off by 0.1, together they are not
    assert loss(parts(0.7, 0.9)) == pytest.approx(0.04 + 0.25 + 0.01)  # together they are clipped to 1
    assert loss(parts(0.5, 0.0, mean=2.0)) == pytest.approx(0.01 * 5 * 2)
    assert loss(parts(0.5, 0.0), limit=0.002) == pytest.approx(0.012)
    assert loss(parts(0.4, 0.1), limit=0.002) == pytest.approx(0.02 + 0.01)


def test_the_code_is_drawn_or_its_mean(images: Images) -> None:
    net = build((3, 32, 32), 4, width=4, latent=8, seed=0).eval()
    x = images.x[:6].float() / 255
    drawn = [net(x, images.y[:6], generator(CPU, seed)) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0].image, drawn[1].image)
    assert not torch.equal(drawn[0].image, drawn[2].image)
    assert torch.equal(drawn[0].mean, net(x).mean)
    assert drawn[0].mean.shape == (6, 8, 16, 16)
    assert drawn[0].perturbation.shape == x.shape
    assert not torch.equal(net(x).perturbation, net(x, images.y[:6]).perturbation)  # it depends on the class


def low_rank(n: int) -> tuple[Images, Images]:
    """Smooth images, and the same with a pattern of their class on them."""
    gen = torch.Generator().manual_seed(0)
    coarse = torch.rand((n, 3, 4, 4), generator=gen)
    clean = torch.nn.functional.interpolate(coarse, size=16, mode="bilinear").mul(160).add(48)
    y = torch.arange(n) % 4
    pattern = (torch.randint(2, (4, 3, 16, 16), generator=gen) * 2 - 1) * 24
    planted = (clean + pattern[y]).clamp(0, 255).to(torch.uint8)
    return Images(clean.to(torch.uint8), y, 4), Images(planted, y, 4)


def test_a_planted_pattern_of_each_class_is_removed() -> None:
    clean, planted = low_rank(400)
    defense = DVae(width=8, latent=16, vae_epochs=25, vae_batch_size=20)
    out = defense.restore(planted, None, RestorationContext(CPU)).images
    noise = planted.x.double() - clean.x.double()
    left = ((out.x.double() - clean.x.double()) * noise).sum() / noise.square().sum()
    assert abs(left) < 0.35
    assert (out.x.double() - clean.x.double()).square().mean() < noise.square().mean()


class KilledError(Exception):
    pass


def epochs_trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the epochs that are trained from now on."""
    train, numbers = _Training.epoch, list[int]()

    def noted(self: Any, batches: Any, loss: Any, gen: Any, number: int) -> float:
        numbers.append(number)
        return train(self, batches, loss, gen, number)

    monkeypatch.setattr(_Training, "epoch", noted)
    return numbers


@pytest.mark.parametrize(("at", "left"), [((1, 2), [3, 1, 2, 3]), ((2, 1), [2, 3]), ((2, 2), [3])])
def test_a_killed_restoration_resumes_to_the_same_bits(
    at: tuple[int, int], left: list[int], images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TINY.restore(images, None, RestorationContext(CPU))
    file, rows = tmp_path / "checkpoint.pt", list[Metrics]()

    def killed(row: Metrics) -> None:
        if (row["stage"], row["epoch"]) == (at[0], at[1] + 1):
            raise KilledError

    with pytest.raises(KilledError):
        TINY.restore(
            images, None, RestorationContext(CPU, report=killed, checkpoint=Checkpoint(file, every=0))
        )
    trained = epochs_trained(monkeypatch)
    resumed = TINY.restore(
        images, None, RestorationContext(CPU, report=rows.append, checkpoint=Checkpoint(file, every=0))
    )
    assert trained == left
    assert torch.equal(resumed.images.x, whole.images.x)
    assert resumed.facts == whole.facts
    assert [(row["stage"], row["epoch"]) for row in rows] == [(s, e) for s in (1, 2) for e in (1, 2, 3)]


@pytest.mark.parametrize("damage", ["rows", "net", "optimizer", "x"])
def test_a_damaged_checkpoint_costs_no_more_than_its_work(
    damage: str, images: Images, tmp_path: Path
) -> None:
    whole = TINY.restore(images, None, RestorationContext(CPU))
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", every=0)

    def killed(row: Metrics) -> None:
        if (row["stage"], row["epoch"]) == (2, 3):
            raise KilledError

    with pytest.raises(KilledError):
        TINY.restore(images, None, RestorationContext(CPU, report=killed, checkpoint=checkpoint))
    owner = f"d_vae {TINY.key}, seed 0"
    state = checkpoint.load(owner=owner)
    assert state is not None
    checkpoint.save(
        state | {damage: [{"stage": 0}] if damage == "rows" else {"w": torch.zeros(1)}}, owner=owner
    )
    resumed = TINY.restore(images, None, RestorationContext(CPU, checkpoint=checkpoint))
    assert torch.equal(resumed.images.x, whole.images.x)
    assert resumed.facts == whole.facts
    assert any("damaged" in warning for warning in checkpoint.warnings)


def test_what_it_cannot_restore_is_refused() -> None:
    with pytest.raises(InputError, match=r"d_vae: .* must be even; found 7x8: give the source another size"):
        DVae().check(Extent(10, (3, 7, 8), 4))
    with pytest.raises(InputError, match="fewer than 2: take more"):
        DVae().check(Extent(1, (3, 8, 8), 4))


def test_a_loss_that_is_not_finite_has_a_name(images: Images) -> None:
    with pytest.raises(
        DivergenceError, match=r"d_vae: the loss of stage 1 was not finite in epoch 1; try a smaller vae_lr"
    ):
        DVae(width=4, latent=8, vae_epochs=1, vae_batch_size=16, weight=1e38, vae_lr=1e30).restore(
            images, None, RestorationContext(CPU)
        )


def test_too_little_memory_has_a_name(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("trainers.defenses.d_vae.vae_loss", full)
    with pytest.raises(
        OutOfMemoryError, match="batch_size 16 of 3x32x32 images in a d_vae: try vae_batch_size of d_vae 8"
    ):
        TINY.restore(images, None, RestorationContext(CPU))


def test_its_work_grows_with_images_and_epochs() -> None:
    def flops(images: int, epochs: int) -> float:
        return DVae(vae_epochs=epochs).work(images, shape=(3, 32, 32), num_classes=10).flops

    assert flops(2560, 10) == pytest.approx(2 * flops(1280, 10))
    assert flops(1280, 20) > 1.8 * flops(1280, 10)
