"""COIN and RSK+FF against scipy, UEraser and DAT against loops; chains of defenses."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from torch import Tensor, nn

from tests.conftest import CPU
from tests.trainers.test_augmentations import NoWaiting, seeded
from trainers import Images, InputError, TrainSpec, fit, operations
from trainers.augmentations.flip_crop import FlipCrop
from trainers.augmentations.trivial_augment import TrivialAugment
from trainers.defenses.adversarial_augmentation import AdversarialAugmentation
from trainers.defenses.chain import Chain
from trainers.defenses.coin import Coin, interpolated
from trainers.defenses.dat import Dat, filtered
from trainers.defenses.eclipse import Eclipse
from trainers.defenses.erm import Erm
from trainers.defenses.rsk_ff import RskFf, sharpened
from trainers.defenses.ueraser import Ueraser
from trainers.families import Architecture, Defense, Passes
from trainers.images import Extent
from trainers.plasma import plasma
from trainers.spec import plain

NONE = nn.Identity()


def images_(*shape: int) -> Tensor:
    return torch.randint(256, shape, generator=seeded(0)).float() / 255


def perturbed(defense: Defense, x: Tensor, seed: int = 1) -> Tensor:
    return defense.perturb(NONE, x, torch.zeros(len(x), 2), seeded(seed))


def test_coin_without_distance_is_the_identity() -> None:
    x = images_(4, 3, 12, 9)
    assert torch.equal(perturbed(Coin(alpha=0), x), x)


@pytest.mark.parametrize("alpha", [0.8, 2.0, 30.0])
@pytest.mark.parametrize("shape", [(3, 12, 9), (1, 5, 5), (3, 2, 7)], ids=str)
def test_coin_interpolates_as_scipy_does(alpha: float, shape: tuple[int, int, int]) -> None:
    c, h, w = shape
    x = torch.rand(3, *shape, dtype=torch.float64, generator=seeded(0))
    shift = alpha * (2 * torch.rand(2, 3, h, w, dtype=torch.float64, generator=seeded(1)) - 1)
    rows = torch.arange(h, dtype=torch.float64).view(h, 1) + shift[0]
    columns = torch.arange(w, dtype=torch.float64) + shift[1]
    found = interpolated(x, rows, columns)
    for i in range(3):
        for k in range(c):
            places = np.stack([rows[i].numpy(), columns[i].numpy()])
            expected = scipy.ndimage.map_coordinates(x[i, k].numpy(), places, order=1, mode="wrap")
            assert np.abs(found[i, k].numpy() - expected).max() < 1e-12


def test_coin_reads_half_a_pixel_outside_as_published() -> None:
    """On five pixels, -0.5 is 3.5: the period is one less than the size."""
    x, rows = torch.arange(5.0).view(1, 1, 1, 5).double(), torch.zeros(1, 1, 5).double()
    assert interpolated(x, rows, rows - 0.5).flatten().tolist() == [3.5] * 5


def test_coin_leaves_flat_images_as_they_are() -> None:
    x = (torch.arange(256.0).view(256, 1, 1, 1) / 255).expand(-1, 3, 8, 8)
    assert torch.equal(perturbed(Coin(), x), x)


def test_coin_moves_by_less_than_alpha_and_gives_whole_levels() -> None:
    ramp = (torch.arange(32.0).expand(50, 3, 32, 32) * 8) / 255
    moved = perturbed(Coin(alpha=2.0), ramp)
    levels = moved * 255
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    inner = (levels - ramp * 255)[..., 4:-4]
    assert -17 <= inner.min() < -12
    assert 12 < inner.max() <= 16
    assert torch.equal(moved[:, 0], moved[:, 1])  # the channels share the place
    assert len(moved.flatten(1).unique(dim=0)) == 50  # one draw per image


def test_a_fixed_sharpening_kernel_is_scipys_correlation_and_keeps_flat_images() -> None:
    x = torch.rand(3, 3, 12, 9, dtype=torch.float64, generator=seeded(0))
    kernel = np.array([[0, -0.375, 0], [-0.375, 2.5, -0.375], [0, -0.375, 0]])
    assert kernel.sum() == 1
    found = sharpened(x, torch.tensor([[2.5] + 4 * [-0.375]] * 3, dtype=torch.float64))
    expected = [[scipy.signal.correlate2d(c.numpy(), kernel, mode="valid") for c in one] for one in x]
    assert np.allclose(found.numpy(), np.array(expected), atol=1e-12)
    flat = perturbed(RskFf(sharpen="fixed", keep=None), torch.full((2, 3, 12, 12), 0.5))
    assert set(flat.unique().tolist()) <= {0.0, 0.5}  # zeros are those of the padding


def test_each_place_of_a_kernel_has_its_own_weight() -> None:
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 2, 2] = 1
    found = sharpened(x, torch.tensor([[5.0, 1.0, 2.0, 3.0, 4.0]]))[0, 0]
    assert found.tolist() == [[0, 2, 0], [4, 5, 3], [0, 1, 0]]


def test_random_kernels_have_the_published_moments() -> None:
    kernels = RskFf()._kernels(20_000, CPU, seeded(0)).double()
    assert kernels[:, 0].mean() == pytest.approx(2.5, abs=0.01)
    assert kernels[:, 0].std() == pytest.approx(0.1, abs=0.01)
    assert kernels[:, 1:].mean() == pytest.approx(-0.375, abs=0.01)
    assert kernels.sum(1).mean() == pytest.approx(1, abs=0.01)
    assert kernels.sum(1).std() == pytest.approx(0.2, abs=0.01)


def test_the_crop_restores_the_border_that_sharpening_costs() -> None:
    """Of 32 pixels 30 are left, which are put at one of 7 x 7 places."""
    x = torch.full((2000, 1, 32, 32), 0.5)
    found = perturbed(RskFf(sharpen="fixed", keep=None), x)[:, 0] > 0
    assert found.shape == (2000, 32, 32)
    rows, columns = found.any(2), found.any(1)
    assert found.sum((1, 2)).max() == 30 * 30
    assert {int(n) for n in rows.sum(1)} == {28, 29, 30}
    first = rows.float().argmax(1)
    assert set(first.tolist()) == {0, 1, 2, 3, 4}
    assert torch.equal(found, rows[:, :, None] & columns[:, None])


def test_the_filter_keeps_nine_of_thirty_frequencies() -> None:
    x = images_(40, 3, 32, 32) * 0.2 + 0.4
    found = perturbed(
        RskFf(sharpen="fixed", keep=0.3, padding=1), x
    )  # padding 1: the window stays in the middle
    window = found[:, :, 1:-1, 1:-1].double()
    assert (window > 0).all()
    ranks = torch.linalg.matrix_rank(window, tol=1e-4)
    assert ranks.unique().tolist() == [9]


@pytest.mark.parametrize(
    "defense", [Coin(), RskFf(), RskFf(sharpen="fixed"), RskFf(sharpen=None), Eclipse()], ids=str
)
def test_none_makes_the_host_wait_or_changes_the_batch(defense: Defense) -> None:
    x = images_(8, 3, 16, 16)
    before = x.clone()
    first = perturbed(defense, x)
    with NoWaiting():
        again = perturbed(defense, x)
    assert torch.equal(first, again)
    assert torch.equal(x, before)
    assert not torch.equal(first, perturbed(defense, x, seed=2))


@pytest.mark.parametrize("defense", ["coin", "rsk_ff"])
def test_autocast_changes_nothing(defense: str, images: Images) -> None:
    """Inside bfloat16 arithmetic the pixels stay float32."""
    chosen, x = Defense.parse(defense, "test"), images_(8, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = perturbed(chosen, x)
    assert found.dtype == torch.float32
    assert torch.equal(found, perturbed(chosen, x))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "rsk_ff", "sharpen": None, "keep": None}, "leave nothing to do; use erm"),
        ({"kind": "rsk_ff", "padding": 0}, "`padding` is at least 1"),
        (["jpeg", "erm"], "erm, plain training, cannot be combined .*; to try several values, make it an axis"),
        (["jpeg", "jpeg"], "jpeg is in the chain twice; leave one out"),
        (["pgd_at", "trades"], "pgd_at and trades each decide what a step minimises: use one of them"),
        ([{"kind": "ueraser", "draws": 1}, "trades"], "ueraser and trades each decide what a step minimises"),
        (["orthogonal_projection", "pgd_at"], "orthogonal_projection .* leaves values outside .0, 1., which pgd_at does not take: use one of them"),
        (["orthogonal_projection", "jpeg"], "orthogonal_projection leaves values outside .0, 1., .*: write orthogonal_projection last"),
        ("rsk_ff", r"rsk_ff crops at random by itself: write augmentations: \[\{kind: flip_crop, pad: 0\}\]"),
        (["jpeg", "rsk_ff"], "rsk_ff crops at random by itself"),
        (["pgd_at", "jpeg"], "jpeg changes the images before the training: write it before pgd_at"),
        ([["jpeg", "grayscale"], "pgd_at"], "expected a kind of defense"),
        ([{"kind": "chain", "parts": ["jpeg", "coin"]}, "pgd_at"], "a chain has no chains inside; write one list"),
        ([], "an empty list: write erm for plain training"),
        (["jpg"], "unknown defense 'jpg'; did you mean 'jpeg'"),
        (["jpg", "pgd_at"], "unknown defense 'jpg'; did you mean 'jpeg'"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        TrainSpec.parse({"defense": data}, "sweep.yaml")
    assert "\n" not in str(error.value)


def test_advice_about_the_order_of_a_chain_works() -> None:
    """Any two defenses can be combined in one order at least, or the error says that they cannot."""
    members = {
        kind: member.smoke for kind, member in Defense.registry.items() if kind not in ("erm", "chain")
    }
    alone = "use one of them|each decide what a step minimises|each train a network"
    refused: dict[tuple[str, str], str] = {}
    for pair in itertools.permutations(members, 2):
        try:
            parts = [{"kind": kind, **members[kind]} for kind in pair]
            TrainSpec.parse({"defense": parts, "augmentations": []}, "test")
        except InputError as error:
            refused[pair] = str(error)
    for (one, other), why in refused.items():
        assert ((other, one) in refused) == bool(re.search(alone, why)), why
    assert "coin would change what pgd_at makes of a batch: write pgd_at last" in refused["pgd_at", "coin"]
    assert "use one of them" in refused["coin", "orthogonal_projection"]


def test_a_list_of_one_is_that_one_and_a_chain_survives_a_round_trip() -> None:
    one, alone = (TrainSpec.parse({"defense": d}, "test") for d in (["pgd_at"], "pgd_at"))
    assert one == alone
    assert one.key == alone.key
    two, other = (TrainSpec.parse({"defense": d}, "test") for d in (["jpeg", "coin"], ["bit_depth", "coin"]))
    assert TrainSpec.parse(plain(two), "test") == two
    assert len({one.key, two.key, other.key}) == 3


def test_a_chain_is_its_parts_in_order(images: Images) -> None:
    parts = ["grayscale", {"kind": "bit_depth", "bits": 3}, "coin", {"kind": "pgd_at", "steps": 2}]
    spec = TrainSpec.parse({"defense": parts}, "test")
    chain = spec.defense
    assert isinstance(chain, Chain)
    assert chain.passes == Passes(forward=3, backward=1, inputs=2)
    assert not chain.memorises
    assert TrainSpec.parse({"defense": ["jpeg", "grayscale"]}, "test").defense.memorises
    prepared, expected = images, images
    gens = seeded(0), seeded(0)
    prepared = chain.prepare(images, device=CPU, gen=gens[0], report=lambda row: None)
    for part in chain.parts:
        expected = part.prepare(expected, device=CPU, gen=gens[1], report=lambda row: None)
    assert torch.equal(prepared.x, expected.x)
    assert not torch.equal(prepared.x, images.x)
    model = spec.architecture.network(num_classes=4, shape=(3, 32, 32), seed=0).eval()
    x, y = images.x[:4].float() / 255, torch.eye(4)
    gens = seeded(2), seeded(2)
    found = chain.perturb(model, x, y, gens[0])
    for part in chain.parts:
        x = part.perturb(model, x, y, gens[1])
    assert torch.equal(found, x)


def test_a_chain_checks_each_part() -> None:
    chain = TrainSpec.parse({"defense": ["jpeg", "coin"]}, "test").defense
    with pytest.raises(InputError, match="jpeg is for grey or RGB images"):
        chain.check(Extent(10, (2, 8, 8), 4))


def test_a_training_is_on_what_the_chain_prepares(images: Images) -> None:
    settings = {"architecture": "lenet5", "epochs": 1, "batch_size": 16, "precision": "float32"}
    chained = TrainSpec.parse({**settings, "defense": ["jpeg", {"kind": "bit_depth", "bits": 3}]}, "test")
    done = fit(chained, images, images, seed=0, device=CPU)
    first, second = chained.defense.parts  # type: ignore[attr-defined]
    assert torch.equal(done.images.x, second.change(first.change(images.x)))
    plain_one = TrainSpec.parse(settings, "test")
    reference = fit(plain_one, done.images, images, seed=0, device=CPU)
    assert done.history == reference.history


def batch(n: int = 8) -> tuple[nn.Module, Tensor, Tensor]:
    model = Architecture.parse("lenet5", "test").network(num_classes=4, shape=(3, 32, 32), seed=0).train()
    return model, images_(n, 3, 32, 32), torch.eye(4)[torch.arange(n) % 4]


def test_one_draw_of_ueraser_is_plain_training_on_its_augmentation() -> None:
    (model, x, y), one = batch(), Ueraser(draws=1)
    loss, logits = one.loss(model, x, y, seeded(3))
    plain_loss, plain_logits = Erm().loss(model, one.augmented(x, y, seeded(3)), y, seeded(0))
    assert torch.equal(loss, plain_loss)
    assert torch.equal(logits, plain_logits)
    assert one.passes == Erm().passes


def test_ueraser_takes_the_worst_version_of_each_image() -> None:
    """Against a loop over the images."""
    (model, x, y), defense, gen = batch(), Ueraser(draws=4), seeded(3)
    loss, logits = defense.loss(model, x, y, seeded(3))
    versions = [defense.augmented(x, y, gen) for _ in range(4)]
    expected = 0.0
    for i in range(8):
        losses = [nn.functional.cross_entropy(model(v[i : i + 1]), y[i : i + 1]).item() for v in versions]
        expected += max(losses) / 8
        assert torch.allclose(logits[i], model(versions[losses.index(max(losses))])[i], atol=1e-5)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_ueraser_shows_batchnorm_every_version() -> None:
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm, nn.Flatten(), nn.Linear(3 * 32 * 32, 4)).train()
    _, x, y = batch()
    Ueraser(draws=5).loss(model, x, y, seeded(0))
    assert norm.num_batches_tracked == 5


def test_ueraser_draws_more_versions_in_its_share_of_the_epochs() -> None:
    defense = Ueraser(draws=5, share=0.25)
    draws = [plain(defense.at(epoch / 200))["draws"] for epoch in (1, 50, 51, 200)]
    assert draws == [5, 5, 1, 1]
    chain = TrainSpec.parse({"defense": ["jpeg", {"kind": "ueraser", "share": 0.25}]}, "test").defense
    assert [part.kind for part in chain.at(1.0).parts] == ["jpeg", "ueraser"]  # type: ignore[attr-defined]
    assert chain.at(1.0).parts[1].draws == 1  # type: ignore[attr-defined]
    assert defense.passes == Passes(forward=2, backward=2)


def test_adversarial_augmentation_of_a_linear_network_is_its_closed_form() -> None:
    """Of 40 flips of an image some are mirrored and some are not, so the loss is the larger of two logistic
    losses, and its gradient is that of logistic regression on the worse image."""
    n, classes = 16, 3
    x, y = images_(n, 1, 4, 6), torch.eye(classes)[torch.arange(n) % classes]
    layer = nn.Linear(24, classes)
    defense = AdversarialAugmentation(augmentations=(FlipCrop(pad=0),), draws=40)
    loss, logits = defense.loss(nn.Sequential(nn.Flatten(), layer), x, y, seeded(0))
    loss.backward()

    weights, bias = layer.weight.detach().double(), layer.bias.detach().double()
    expected, slope = 0.0, torch.zeros_like(weights)
    for image, label, found in zip(x.double(), y.double(), logits, strict=True):
        both = [version.flatten() for version in (image, image.flip(-1))]
        scores = [weights @ version + bias for version in both]
        losses = [float(s.exp().sum().log() - s @ label) for s in scores]
        worst = losses.index(max(losses))
        expected += max(losses) / n
        slope += torch.outer(scores[worst].softmax(0) - label, both[worst]) / n
        assert torch.allclose(found.double(), scores[worst], atol=1e-5)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert layer.weight.grad is not None
    assert torch.allclose(layer.weight.grad.double(), slope, atol=1e-6)


def test_one_draw_of_adversarial_augmentation_is_the_augmentation() -> None:
    (model, x, y), one = batch(), AdversarialAugmentation(draws=1)
    loss, _ = one.loss(model, x, y, seeded(3))
    plain_loss, _ = Erm().loss(model, TrivialAugment()(x, y, seeded(3))[0], y, seeded(0))
    assert torch.equal(loss, plain_loss)


@pytest.mark.parametrize(
    ("augmentations", "message"),
    [
        ([], "without augmentations all versions are alike"),
        (["cutout", "mixup"], "mixup mixes images, whose losses cannot be compared"),
    ],
    ids=["none", "mixing"],
)
def test_versions_that_cannot_be_compared_are_refused(augmentations: list[str], message: str) -> None:
    defense = {"kind": "adversarial_augmentation", "augmentations": augmentations}
    with pytest.raises(InputError, match=message):
        TrainSpec.parse({"defense": defense}, "test")


def test_every_image_and_version_of_ueraser_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images_(1, 3, 32, 32).expand(64, -1, -1, -1)
    gen = seeded(0)
    first, second = (Ueraser().augmented(x, torch.eye(64), gen) for _ in range(2))
    assert len(torch.cat([first, second]).flatten(1).unique(dim=0)) > 100
    assert 0 <= first.min() <= first.max() <= 1
    monkeypatch.setattr(operations, "counting_is_free", lambda device: False)
    with NoWaiting():
        Ueraser().augmented(x, torch.eye(64), gen)


def loop_plasma(size: int, draws: list[Tensor], first: Tensor, roughness: float) -> Tensor:
    """The diamond-square algorithm, point by point."""
    grid, share = first.clone(), 1.0
    for noise in draws:
        share *= roughness
        s = 2 * len(grid) - 1
        finer = torch.zeros(s, s, dtype=grid.dtype)
        finer[::2, ::2] = grid
        for i in range(1, s, 2):
            for j in range(1, s, 2):
                four = finer[i - 1, j - 1] + finer[i - 1, j + 1] + finer[i + 1, j - 1] + finer[i + 1, j + 1]
                finer[i, j] = (1 - share) * four / 4 + share * noise[i, j]
        middle = finer.clone()
        for i in range(s):
            for j in range((i + 1) % 2, s, 2):
                near = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
                values = [middle[a, b] for a, b in near if 0 <= a < s and 0 <= b < s]
                mean = sum(values, torch.zeros(())) / len(values)
                finer[i, j] = (1 - share) * mean + share * noise[i, j]
        grid = finer
    return grid[:size, :size]


def test_plasma_is_the_diamond_square_algorithm() -> None:
    roughness, gen = torch.tensor([0.3, 0.7]), seeded(7)
    found = plasma(2, (13, 13), roughness, seeded(7))
    first = torch.rand((2, 1, 3, 3), generator=gen)
    draws = [torch.rand((2, 1, s, s), generator=gen) for s in (5, 9, 17)]
    for k in range(2):
        expected = loop_plasma(13, [draw[k, 0] for draw in draws], first[k, 0], float(roughness[k]))
        assert torch.allclose(found[k], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (32, 32), (2, 2)], ids=str)
def test_plasma_lies_in_its_range_at_every_size(size: tuple[int, int]) -> None:
    field = plasma(50, size, torch.full((50,), 0.5), seeded(0))
    assert field.shape == (50, *size)
    assert 0 <= field.min() < 0.2
    assert 0.8 < field.max() <= 1


def test_ueraser_changes_the_channels_each_by_its_own_field() -> None:
    x = torch.full((64, 3, 32, 32), 0.5)
    found = Ueraser(probability=1.0)._coloured(x, seeded(0))
    assert (found[:, 0] != found[:, 1]).float().mean() > 0.9


def test_bfloat16_arithmetic_of_the_network_changes_no_pixel() -> None:
    _, x, y = batch(8)
    changes = (
        lambda: Ueraser().augmented(x, y, seeded(1)),
        lambda: filtered(x, torch.linspace(-1, 1, 8 * 50).view(8, 50), 7),
    )
    for change in changes:
        with torch.autocast("cpu", torch.bfloat16):
            found = change()
        assert found.dtype == torch.float32
        assert torch.equal(found, change())


def test_images_of_other_channels_are_refused_by_ueraser() -> None:
    with pytest.raises(
        InputError,
        match="ueraser is for grey or RGB images; these have 4 channels: leave it out",
    ):
        Ueraser().check(Extent(10, (4, 8, 8), 2))


@pytest.mark.parametrize("size", [3, 7])
def test_a_filter_is_torchs_transposed_convolution(size: int) -> None:
    x, filters = images_(4, 3, 10, 8), torch.randn(4, size**2 + 1, generator=seeded(1))
    found = filtered(x, filters, size)
    for i in range(4):
        layer = nn.ConvTranspose2d(1, 1, size, padding=size // 2)
        with torch.no_grad():
            layer.weight.copy_(filters[i, :-1].view(1, 1, size, size))
            layer.bias.copy_(filters[i, -1:])
            expected = layer(x[i].unsqueeze(1)).squeeze(1)
        assert torch.allclose(found[i], expected, atol=1e-5)


def by_class(defense: Dat, model: nn.Module, x: Tensor, labels: Tensor, gen: torch.Generator) -> Tensor:
    """The release's loop, a class at a time."""
    k, classes = defense.size, 4
    drawn = (torch.rand((classes, k**2 + 1), generator=gen) * 2 - 1) / k
    layers = [nn.ConvTranspose2d(1, 1, k, padding=k // 2) for _ in range(classes)]
    for layer, values in zip(layers, drawn, strict=True):
        layer.weight.data = values[:-1].view(1, 1, k, k).clone()
        layer.bias.data = values[-1:].clone()
    for _ in range(defense.steps):
        for c, layer in enumerate(layers):
            layer.weight.data.clamp_(-5, 5)
            layer.bias.data.clamp_(-5, 5)
            mine = x[labels == c]
            images = layer(mine.reshape(-1, 1, *x.shape[2:])).view_as(mine)
            loss = nn.functional.cross_entropy(model(images), labels[labels == c])
            slopes = torch.autograd.grad(loss, [layer.weight, layer.bias])
            layer.weight.data += defense.step * slopes[0]
            layer.bias.data += defense.step * slopes[1]
    out = torch.empty_like(x)
    for i, label in enumerate(labels.tolist()):
        with torch.no_grad():
            one = layers[label](x[i].unsqueeze(1)).squeeze(1)
        out[i] = (one - one.min()) / (one - one.min()).max()
    return out


def test_dat_is_the_released_loop_over_the_classes() -> None:
    """In eval mode, in which it does not matter which images go through the network together."""
    model, x, y = batch(10)
    model.eval()
    defense = Dat(size=5, steps=4, mode="eval")
    found = defense.perturb(model, x, y, seeded(3))
    expected = by_class(defense, model, x, y.argmax(1), seeded(3))
    assert torch.allclose(found, expected, atol=1e-4)
    assert (found.amin((1, 2, 3)) == 0).all()
    assert found.amax((1, 2, 3)) == pytest.approx(torch.ones(10))
    assert all(p.requires_grad for p in model.parameters())


def test_dat_raises_the_loss_more_than_its_random_filters_do() -> None:
    model, x, y = batch(32)
    model.eval()
    losses = []
    for steps in (1, 20):
        found = Dat(steps=steps, step=1e-9 if steps == 1 else 1.0, mode="eval").perturb(
            model, x, y, seeded(3)
        )
        losses.append(nn.functional.cross_entropy(model(found), y).item())
    assert losses[1] > losses[0]


def test_filters_of_even_or_too_large_a_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"a filter has a middle, so its size is odd: write 7"):
        Defense.parse({"kind": "dat", "size": 6}, "test")
    with pytest.raises(InputError, match=r"filters of 7 pixels are larger than the images"):
        Dat().check(Extent(10, (1, 6, 8), 4))
