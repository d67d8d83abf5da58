"""Every augmentation keeps shapes and label mass, draws per image, and does what its name says."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms.v2 import InterpolationMode, RandAugment, TrivialAugmentWide
from torchvision.transforms.v2 import functional as T

from poisons.methods.rem import Rem
from poisons.methods.tap import Tap
from tests.trainers.test_operations import smooth, witness
from trainers import operations
from trainers.augmentations import rand_augment, trivial_augment, uda_augment
from trainers.augmentations.affine import Affine, affine
from trainers.augmentations.color_jitter import ColorJitter, color_jitter
from trainers.augmentations.cutmix import CutMix, cutmix
from trainers.augmentations.cutout import cutout
from trainers.augmentations.flip_crop import FlipCrop, crop
from trainers.augmentations.mixup import Mixup, beta, mixup
from trainers.augmentations.rotate import Rotate, rotate
from trainers.augmentations.subpixel_shift import shifted
from trainers.defenses.adversarial_augmentation import AdversarialAugmentation
from trainers.families import Augmentation
from trainers.images import Extent
from trainers.recipe import TrainSpec
from trainers.spec import InputError

TORCHVISION = {
    "Identity": "identity", "ShearX": "shear_x", "ShearY": "shear_y", "TranslateX": "translate_x",
    "TranslateY": "translate_y", "Rotate": "rotate", "Brightness": "brightness", "Color": "color",
    "Contrast": "contrast", "Sharpness": "sharpness", "Posterize": "posterize", "Solarize": "solarize",
    "AutoContrast": "auto_contrast", "Equalize": "equalize",
}  # fmt: skip
ALL = [pytest.param(m, id=m.kind) for m in Augmentation.registry.values()]


def batch() -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(0)
    return torch.rand(16, 3, 12, 10, generator=gen), F.one_hot(torch.arange(16) % 4, 4).float()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("member", ALL)
def test_every_augmentation_keeps_its_contract(member: type[Augmentation]) -> None:
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


@pytest.mark.parametrize("member", ALL)
def test_every_augmentation_takes_grey_images_and_odd_sizes(member: type[Augmentation]) -> None:
    for shape in ((1, 28, 28), (3, 7, 9), (3, 1, 1)):
        x, y = torch.rand(5, *shape, generator=seeded(0)), torch.eye(5)
        ax, ay = member.parse(member.smoke, "test")(x, y, seeded(1))
        assert ax.shape == x.shape
        assert 0 <= ax.min() <= ax.max() <= 1
        assert torch.allclose(ay.sum(1), torch.ones(5))


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("member", ALL)
def test_every_augmentation_takes_any_channels_or_refuses_them(
    member: type[Augmentation], channels: int
) -> None:
    """By name and before the training, in whatever names it: the training, a defense, a poison."""
    spec, extent = member.parse(member.smoke, "test"), Extent(16, (channels, 16, 16), 4)
    training, defense = TrainSpec(augmentations=(spec,)), AdversarialAugmentation
    if not spec.coloured:
        x = torch.rand(16, channels, 12, 10, generator=seeded(0))
        assert spec(x, batch()[1], seeded(1))[0].shape == x.shape
        training.check(extent)
        return
    names = [training, defense(augmentations=(spec,)), Tap(surrogate=training)]
    if isinstance(spec, ColorJitter):  # noise descends through it
        names += [Tap(augmentations=(spec,)), Rem(augmentations=(spec,))]
    for one in names:
        with pytest.raises(
            InputError, match=f"^{spec.kind} is for grey or RGB images; these have {channels} channels: leave"
        ):
            one.check(extent)


@pytest.mark.parametrize("member", ALL)
def test_every_image_has_its_own_draw(member: type[Augmentation]) -> None:
    x = smooth((3, 32, 32))[3:4].repeat(256, 1, 1, 1).float() / 255
    x[128:] = 1 - x[128:]  # for what mixes
    ax, _ = member.parse(member.smoke, "test")(x, torch.eye(256), seeded(1))
    assert len(ax.flatten(1).unique(dim=0)) > 20


class NoWaiting(TorchDispatchMode):
    """Fails at what makes the host wait for the device: a value read, a shape that depends on values, or
    numbers copied there."""

    WAITS = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "is_nonzero",
        "equal",
        "unique",
        "bincount",
        "item",
        "lift_fresh",  # torch.tensor, Tensor.new_tensor
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Iterable[Any] = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        by_mask = name.startswith("index") and any(
            t.dtype in (torch.bool, torch.uint8)
            for a in args if isinstance(a, list | tuple) for t in a if isinstance(t, Tensor)
        )  # fmt: skip
        assert not by_mask, f"{func}: a mask as an index has a shape that depends on values"
        assert name not in self.WAITS, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("member", ALL)
def test_no_augmentation_synchronises_the_host(
    member: type[Augmentation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "counting_is_free", lambda device: False)  # as on a GPU
    spec, (x, y), gen = member.parse(member.smoke, "test"), batch(), seeded(0)
    spec(x, y, gen)  # constants are copied once
    with NoWaiting():
        spec(x, y, gen)


def test_the_detector_notices_a_synchronisation() -> None:
    x = torch.rand(3)
    with NoWaiting():
        for waits in (
            lambda: x[0].item(),
            lambda: x[x > 0.5],
            lambda: x.nonzero(),
            lambda: bool(x[0] > 0),
            lambda: torch.tensor([1.0]),
            lambda: x.new_tensor([1.0]),
        ):
            with pytest.raises(AssertionError):
                waits()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "mixup", "alpha": 0}, "alpha: Input should be greater than 0, found 0"),
        ({"kind": "mixup", "per": "pixel"}, "per: expected 'image' or 'batch', found 'pixel'"),
        ({"kind": "cutmix", "prob": 1.5}, "prob: Input should be less than or equal to 1, found 1.5"),
        ({"kind": "cutout", "size": 0}, "size: Input should be greater than 0, found 0"),
        ({"kind": "rand_augment", "magnitude": 31}, "magnitude: Input should be less than 31, found 31"),
        ({"kind": "rand_augment", "num_ops": 0}, "num_ops: Input should be greater than 0, found 0"),
        ({"kind": "color_jitter", "hue": 0.6}, "hue: Input should be less than or equal to 0.5, found 0.6"),
        ({"kind": "affine", "scale": [1.2, 0.8]}, "scale: the smaller factor comes first, found .1.2, 0.8."),
        ({"kind": "affine", "scale": [0, 1]}, "greater than 0, found 0"),
        ({"kind": "affine", "shear": 90}, "shear: Input should be less than 90, found 90"),
        ({"kind": "rotate", "degrees": -1}, "degrees: Input should be greater than or equal to 0, found -1"),
    ],
    ids=lambda v: v["kind"] if isinstance(v, dict) else "",
)
def test_a_setting_out_of_range_is_refused_by_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Augmentation.parse(settings, "train")


# flip_crop


def test_crop_takes_the_requested_window() -> None:
    x, _ = batch()
    top, left = torch.randint(9, (2, 16), generator=torch.Generator().manual_seed(2))
    padded = F.pad(x, (4, 4, 4, 4))
    naive = torch.stack(
        [padded[i, :, t : t + 12, w : w + 10] for i, (t, w) in enumerate(zip(top, left, strict=True))]
    )
    assert torch.equal(crop(x, top, left, pad=4), naive)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 9), st.integers(0, 99))
def test_flip_and_crop_in_one_gather_are_a_flip_then_a_crop(h: int, w: int, pad: int, seed: int) -> None:
    x = torch.rand(6, 2, h, w, generator=seeded(seed))
    both, _ = FlipCrop(pad=pad)(x, torch.eye(6), seeded(seed + 1))
    gen = seeded(seed + 1)  # the same draws in the same order
    flips = torch.randint(2, (6,), generator=gen).bool()
    top, left = torch.randint(2 * pad + 1, (2, 6), generator=gen)
    flipped = torch.where(flips[:, None, None, None], x.flip(3), x)
    padded = F.pad(flipped, (pad, pad, pad, pad))
    naive = [p[:, t : t + h, s : s + w] for p, t, s in zip(padded, top, left, strict=True)]
    assert torch.equal(both, torch.stack(naive))


def test_about_half_of_the_images_are_flipped() -> None:
    x = torch.zeros(4000, 1, 1, 2)
    x[..., 0] = 1
    flipped, _ = FlipCrop(pad=0)(x, torch.ones(4000, 1), torch.Generator().manual_seed(3))
    assert 0.45 < (flipped[:, 0, 0, 1] == 1).float().mean() < 0.55
    kept, _ = FlipCrop(pad=0, flip=False)(x, torch.ones(4000, 1), torch.Generator().manual_seed(3))
    assert torch.equal(kept, x)


# mixup, cutmix, cutout


def test_mixup_blends_each_image_by_its_own_share() -> None:
    (x, y), gen = batch(), seeded(4)
    share, order = torch.rand(16, generator=gen), torch.randperm(16, generator=gen)
    ax, ay = mixup(x, y, share, order)
    for i, (s, j) in enumerate(zip(share.tolist(), order.tolist(), strict=True)):
        assert torch.allclose(ax[i], s * x[i] + (1 - s) * x[j], atol=1e-6)
        assert torch.allclose(ay[i], s * y[i] + (1 - s) * y[j], atol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 0.2, 3.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    share = beta(alpha, 40_000, seeded(5))
    assert torch.equal(share, beta(alpha, 40_000, seeded(5)))
    assert 0 <= share.min() <= share.max() <= 1
    assert share.mean() == pytest.approx(0.5, abs=0.01)
    assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)
    if alpha == 1:
        assert (torch.histc(share, 10, 0, 1) / 4000 - 1).abs().max() < 0.1


@pytest.mark.parametrize(("per", "shares"), [("image", 64), ("batch", 1)])
def test_mixup_draws_a_share_per_image_or_one_as_published(per: str, shares: int) -> None:
    y = torch.cat((torch.ones(64, 1), torch.zeros(64, 1)))
    _, ay = Mixup.parse({"per": per}, "test")(torch.rand(128, 1, 2, 2), y, seeded(6))
    mixed = ay[(ay > 0) & (ay < 1)]
    found = len(torch.minimum(mixed, 1 - mixed).mul(1e5).round().unique())
    assert found == 1 if shares == 1 else found > 32


def test_cutmix_pastes_each_images_own_box_and_labels_follow_the_area() -> None:
    (x, y), gen = batch(), seeded(7)
    share, order = torch.rand(16, generator=gen), torch.randperm(16, generator=gen)
    row, column = torch.randint(12, (16,), generator=gen), torch.randint(10, (16,), generator=gen)
    share[0] = 1
    ax, ay = cutmix(x, y, share, row, column, order)
    for i, j in enumerate(order.tolist()):
        side = math.sqrt(1 - share[i].item())
        tall, wide = int(side * 12) // 2, int(side * 10) // 2
        t, b = max(0, row[i] - tall), min(12, row[i] + tall)
        left, r = max(0, column[i] - wide), min(10, column[i] + wide)
        naive = x[i].clone()
        naive[:, t:b, left:r] = x[j, :, t:b, left:r]
        kept = 1 - (b - t) * (r - left) / 120
        assert torch.equal(ax[i], naive)
        assert torch.allclose(ay[i], kept * y[i] + (1 - kept) * y[j], atol=1e-6)
    assert torch.equal(ax[0], x[0])


@pytest.mark.parametrize("prob", [0.0, 0.5, 1.0])
def test_cutmix_skips_images_as_often_as_its_probability_says(prob: float) -> None:
    x = torch.arange(2000.0).view(-1, 1, 1, 1).expand(-1, 1, 16, 16) / 2000
    ax, ay = CutMix(prob=prob)(x, torch.eye(2000), seeded(8))
    cut = (ax != x).flatten(1).any(1)
    assert torch.equal(cut, ay.amax(1) < 1)
    assert prob * 0.9 <= cut.float().mean() <= prob * 1.02  # a small box may come out empty


@pytest.mark.parametrize("size", [1, 3, 4, 16])
def test_cutout_blackens_a_square_that_may_overlap_the_border(size: int) -> None:
    x, _ = batch()
    row, column = (
        torch.randint(12, (16,), generator=seeded(9)),
        torch.randint(10, (16,), generator=seeded(10)),
    )
    out = cutout(x, row, column, size=size)
    for i, (r, c) in enumerate(zip(row.tolist(), column.tolist(), strict=True)):
        naive = x[i].clone()
        naive[
            :, max(0, r - size // 2) : r - size // 2 + size, max(0, c - size // 2) : c - size // 2 + size
        ] = 0
        assert torch.equal(out[i], naive)


# rand_augment, trivial_augment, uda_augment


@pytest.mark.parametrize(
    ("theirs", "reach"),
    [
        (RandAugment, {"shear": 0.3, "shifts": (150 / 331 * 28, 150 / 331 * 32), "degrees": 30, "factor": 0.9, "bits": 4}),
        (TrivialAugmentWide, {"shear": 0.99, "shifts": (32, 32), "degrees": 135, "factor": 0.99, "bits": 6}),
    ],
)  # fmt: skip
def test_ranges_match_torchvision(theirs: Any, reach: dict[str, Any]) -> None:
    ours = rand_augment.strengths(**reach, device=torch.device("cpu"))
    assert [TORCHVISION[name] for name in theirs._AUGMENTATION_SPACE] == list(rand_augment.OPS)
    for i, (name, (ranges, signed)) in enumerate(theirs._AUGMENTATION_SPACE.items()):
        magnitudes = ranges(31, 32, 28)
        values = [0.0] * 31 if magnitudes is None else magnitudes.tolist()
        for direction, sign in enumerate((1, -1 if signed else 1)):
            for b, value in enumerate(values):
                strength = value * sign
                strength = int(strength) if "Translate" in name else strength
                strength = 255 * strength if name == "Solarize" else strength
                strength = (
                    1 + strength if name in ("Brightness", "Color", "Contrast", "Sharpness") else strength
                )
                assert ours[direction, b, i] == strength, (name, b)


def spy(monkeypatch: pytest.MonkeyPatch, kind: str) -> list[Tensor]:
    """Operations and strengths as the augmentation of that kind draws them."""
    drawn: list[Tensor] = []
    original = rand_augment.augment

    def augment(x: Tensor, op: Tensor, strength: Tensor) -> Tensor:
        drawn.extend((op, strength))
        return original(x, op, strength)

    modules = {"rand_augment": rand_augment, "trivial_augment": trivial_augment}
    monkeypatch.setattr(modules[kind], "augment", augment)
    return drawn


def naive(images: Tensor, ops: tuple[str, ...], op: Tensor, strength: Tensor) -> Tensor:
    """Image by image through torchvision, operation after operation."""
    done = []
    for i, image in enumerate(images):
        for o, s in zip(op[:, i].tolist(), strength[:, i].tolist(), strict=True):
            image = witness(image, ops[o], s)
        done.append(image)
    return torch.stack(done).float() / 255


def differ(ours: Tensor, theirs: Tensor) -> float:
    return (ours != theirs).float().mean().item()


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 12, 10), (1, 28, 28)], ids=str)
@pytest.mark.parametrize("kind", ["rand_augment", "trivial_augment"])
def test_policies_match_torchvision_image_by_image(
    kind: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = smooth(shape).repeat(8, 1, 1, 1)
    drawn = spy(monkeypatch, kind)
    ours, _ = Augmentation.parse(kind, "test")(images.float() / 255, torch.ones(len(images), 1), seeded(11))
    assert differ(ours, naive(images, rand_augment.OPS, *drawn)) <= 0.005


@pytest.mark.parametrize("kind", ["rand_augment", "trivial_augment"])
def test_operations_magnitudes_and_signs_are_drawn_evenly(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = spy(monkeypatch, kind)
    Augmentation.parse(kind, "test")(torch.zeros(20_000, 1, 2, 2), torch.ones(20_000, 1), seeded(20))
    op, strength = (d.flatten() for d in drawn)
    share = torch.bincount(op, minlength=14) / len(op) * 14
    assert 0.9 < share.min() <= share.max() < 1.1
    turns = strength[op == rand_augment.OPS.index("rotate")]
    assert (turns > 0).float().mean() == pytest.approx(0.5, abs=0.05)
    bins = turns.abs().unique()
    assert bins.tolist() == pytest.approx([9] if kind == "rand_augment" else [4.5 * b for b in range(31)])


def uda_naive(image: Tensor, name: str, strength: float, row: int, column: int) -> Tensor:
    grey = (125.0, 123.0, 114.0) if len(image) == 3 else (123.0,)
    if name != "cutout":
        return witness(image, name, strength, grey)
    half, image = int(strength) // 2, image.clone()
    image[:, max(0, row - half) : row + half, max(0, column - half) : column + half] = torch.tensor(
        grey
    ).view(-1, 1, 1)
    return image


def test_the_uda_policy_is_its_operations_image_by_image() -> None:
    for shape in ((3, 32, 32), (3, 12, 10), (1, 28, 28)):
        images, gen = smooth(shape).repeat(8, 1, 1, 1), seeded(12)
        n = len(images)
        op, level = torch.randint(16, (2, n), generator=gen), torch.randint(1, 10, (2, n), generator=gen)
        negative = torch.randint(2, (2, n), generator=gen)
        row, column = (
            torch.randint(shape[1], (2, n), generator=gen),
            torch.randint(shape[2], (2, n), generator=gen),
        )
        strength = uda_augment.strengths(torch.device("cpu"))[negative, level, op]
        ours = uda_augment.uda_augment(images.float() / 255, op, strength, row, column)
        theirs = []
        for i, image in enumerate(images):
            for r in range(2):
                draws = strength[r, i].item(), int(row[r, i]), int(column[r, i])
                image = uda_naive(image, uda_augment.OPS[op[r, i]], *draws)
            theirs.append(image)
        assert differ(ours, torch.stack(theirs).float() / 255) <= 0.005


def test_udas_levels_are_as_published() -> None:
    table = uda_augment.strengths(torch.device("cpu"))
    published = {
        "rotate": lambda m: int(m * 30 / 10),
        "posterize": lambda m: 4 - int(m * 4 / 10),
        "shear_x": lambda m: m * 0.3 / 10,
        "translate_y": lambda m: int(m * 10 / 10),
        "solarize": lambda m: 256 - int(m * 256 / 10),
        "contrast": lambda m: m * 1.8 / 10 + 0.1,
        "cutout": lambda m: int(m * 20 / 10),
    }
    for name, strength in published.items():
        sign = -1 if name in uda_augment.SIGNED else 1
        for level in range(1, 10):
            found = table[:, level, uda_augment.OPS.index(name)].tolist()
            assert found == pytest.approx([strength(level), sign * strength(level)])
    assert len(uda_augment.OPS) == 16


def test_uda_leaves_a_quarter_of_the_images_alone() -> None:
    x = torch.rand(4000, 3, 8, 8, generator=seeded(13)).mul(255).round() / 255
    ax, _ = uda_augment.UdaAugment()(x, torch.ones(4000, 1), seeded(14))
    alone = (ax == x).flatten(1).all(1).float().mean()
    assert 0.22 < alone < 0.36  # twice at 1/2, and what changes nothing, such as auto_contrast of noise


# color_jitter, rotate, affine


@pytest.mark.parametrize("changes", [3, 4])
def test_color_jitter_matches_torchvision_image_by_image(changes: int) -> None:
    x, gen = smooth((3, 32, 32)).repeat(4, 1, 1, 1).float() / 255, seeded(15)
    strength = 0.4 + 1.2 * torch.rand(len(x), changes, generator=gen)
    strength[:, 3:] = strength[:, 3:] / 2 - 0.5  # a hue within ±0.5
    order = torch.rand(len(x), changes, generator=gen).argsort(1)
    ours = color_jitter(x, strength, order)
    adjust = (T.adjust_brightness, T.adjust_contrast, T.adjust_saturation, T.adjust_hue)
    for i, image in enumerate(x):
        for k in order[i].tolist():
            image = adjust[k](image, strength[i, k].item())
        assert torch.allclose(ours[i], image, atol=1e-5), (i, order[i])


def test_color_jitter_leaves_the_saturation_of_grey_images_alone() -> None:
    x = torch.rand(4, 1, 8, 8, generator=seeded(16))
    out, _ = ColorJitter(brightness=0, contrast=0, saturation=0.5, hue=0.5)(x, torch.eye(4), seeded(17))
    assert torch.allclose(out, x, atol=1e-6)


def test_color_jitter_stays_in_its_ranges() -> None:
    x = torch.full((2000, 3, 1, 1), 0.4)
    out, _ = ColorJitter(brightness=0.2, contrast=0, saturation=0)(x, torch.ones(2000, 1), seeded(18))
    factor = out[:, 0, 0, 0] / 0.4
    assert 0.8 <= factor.min() < 0.81 < 1.19 < factor.max() <= 1.2001
    assert factor.mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 12, 10), (1, 28, 28)], ids=str)
def test_rotate_matches_torchvision_image_by_image(shape: tuple[int, int, int]) -> None:
    x = smooth(shape).float() / 255
    degrees = torch.linspace(-170, 175, len(x))
    theirs = [
        T.rotate(image, angle, interpolation=InterpolationMode.BILINEAR)
        for image, angle in zip(x, degrees.tolist(), strict=True)
    ]
    assert torch.allclose(rotate(x, degrees), torch.stack(theirs), atol=1e-4)


@pytest.mark.parametrize(
    ("augmentation", "upright"),
    [
        (Rotate(degrees=30), False),
        (Affine(degrees=30, shear=0, scale=(1, 1)), False),
        (Affine(degrees=0, shear=30, scale=(1, 1)), True),
    ],
    ids=["rotate", "affine turns", "affine leans"],
)
def test_angles_are_uniform_within_the_limit(augmentation: Augmentation, upright: bool) -> None:
    x = torch.zeros(3000, 1, 65, 65)
    x[:, :, 32, 40:] = 1  # a ray to the right of the centre
    if upright:
        x = x.transpose(2, 3).flip(2)
    out, _ = augmentation(x, torch.ones(3000, 1), seeded(19))
    up = (32 - torch.arange(65.0)).view(-1, 1)
    right = (torch.arange(65.0) - 32).view(1, -1)
    mass = out[:, 0]
    along, aside = (mass * right).sum((1, 2)), (mass * up).sum((1, 2))
    angle = torch.rad2deg(torch.atan2(along, aside) if upright else torch.atan2(aside, along))
    assert angle.abs().max() < 31
    assert (torch.histc(angle, 6, -30, 30) / 500 - 1).abs().max() < 0.2


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 12, 10), (1, 28, 28)], ids=str)
def test_affine_matches_torchvision_image_by_image(shape: tuple[int, int, int]) -> None:
    x, gen = smooth(shape).float() / 255, seeded(20)
    degrees, shear, scale, right, down = torch.rand(5, len(x), generator=gen, dtype=torch.float64)
    amounts = {
        "degrees": 360 * degrees - 180,
        "shear": 80 * shear - 40,
        "scale": 0.5 + scale,
        "right": (6 * right - 3).round(),
        "down": (6 * down - 3).round(),
    }
    each = [{name: v[i].item() for name, v in amounts.items()} for i in range(len(x))]
    theirs = [
        T.affine(
            image, one["degrees"], [int(one["right"]), int(one["down"])], one["scale"], [one["shear"], 0.0]
        )
        for image, one in zip(x, each, strict=True)
    ]
    differing = (affine(x, **amounts) != torch.stack(theirs)).any(1).float().mean()
    assert differing < 0.002  # a source point half-way between two pixels


def test_affine_draws_sizes_and_shifts_within_their_ranges() -> None:
    x, none = torch.zeros(2000, 1, 65, 65), torch.ones(2000, 1)
    x[:, :, 24:41, 24:41] = 1  # a square in the middle
    size = Affine(degrees=0, shear=0)(x, none, seeded(21))[0].sum((1, 2, 3)).sqrt() / 17
    assert 0.75 < size.min() < 0.85 < 1.15 < size.max() < 1.25
    assert size.mean() == pytest.approx(1, abs=0.02)
    moved = Affine(degrees=0, shear=0, scale=(1, 1), translate=0.1)(x, none, seeded(22))[0]
    for across in (2, 3):
        shift = moved.amax((1, across)).argmax(1) - 24
        assert shift.abs().max() == 6  # of 6.5, in whole pixels
        assert (torch.histc(shift[shift.abs() < 6].float(), 11, -5.5, 5.5) * 13 / 2000 - 1).abs().max() < 0.3
    still = Affine(degrees=0, shear=0, scale=(1, 1))(x, none, seeded(23))[0]
    assert torch.equal(still, x)


def test_subpixel_shifts_are_bilinear() -> None:
    """A shift by whole pixels moves them; by half a pixel it is the mean of two; beyond the edge it is grey."""
    x = torch.rand((1, 3, 5, 6), generator=torch.Generator().manual_seed(0))
    still = torch.zeros(1, dtype=torch.bool)
    assert torch.allclose(shifted(x, torch.zeros(1, 2), still), x, atol=1e-6)
    right = shifted(x, torch.tensor([[1.0, 0.0]]), still)
    assert torch.allclose(right[..., :-1], x[..., 1:], atol=1e-5)
    assert torch.allclose(right[..., -1], torch.tensor(0.5), atol=1e-5)
    half = shifted(x, torch.tensor([[0.0, 0.5]]), still)
    assert torch.allclose(half[:, :, :-1], (x[:, :, 1:] + x[:, :, :-1]) / 2, atol=1e-5)
    assert torch.allclose(shifted(x, torch.zeros(1, 2), ~still), x.flip(3), atol=1e-5)
