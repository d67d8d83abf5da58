"""Every augmentation keeps shapes and label mass, draws per image, and does what its name says."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from trainers.augmentations.flip_crop import FlipCrop, crop
from trainers.families import Augmentation


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    gen = torch.Generator().manual_seed(0)
    return torch.rand(16, 3, 12, 10, generator=gen), F.one_hot(torch.arange(16) % 4, 4).float()


@pytest.mark.parametrize("member", Augmentation.registry.values(), ids=lambda m: m.kind)
def test_every_augmentation_keeps_its_promises(member: type[Augmentation]) -> None:
    spec, (x, y) = member.parse(member.smoke, "test"), batch()
    before = x.clone(), y.clone()
    ax, ay = spec(x, y, torch.Generator().manual_seed(1))
    again, _ = spec(x, y, torch.Generator().manual_seed(1))
    assert ax.shape == x.shape
    assert ax.dtype == x.dtype
    assert 0 <= ax.min() <= ax.max() <= 1
    assert torch.allclose(ay.sum(1), torch.ones(16))
    assert torch.equal(ax, again)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


def test_crop_takes_the_window_it_is_told() -> None:
    x, _ = batch()
    top, left = torch.randint(9, (2, 16), generator=torch.Generator().manual_seed(2))
    padded = F.pad(x, (4, 4, 4, 4))
    naive = torch.stack(
        [padded[i, :, t : t + 12, w : w + 10] for i, (t, w) in enumerate(zip(top, left, strict=True))]
    )
    assert torch.equal(crop(x, top, left, pad=4), naive)


def test_about_half_of_the_images_are_flipped() -> None:
    x = torch.zeros(4000, 1, 1, 2)
    x[..., 0] = 1
    flipped, _ = FlipCrop(pad=0)(x, torch.ones(4000, 1), torch.Generator().manual_seed(3))
    assert 0.45 < (flipped[:, 0, 0, 1] == 1).float().mean() < 0.55
    kept, _ = FlipCrop(pad=0, flip=False)(x, torch.ones(4000, 1), torch.Generator().manual_seed(3))
    assert torch.equal(kept, x)
