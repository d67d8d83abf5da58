"""Defenses that change the training images once, against Pillow and scipy."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch import Tensor

from tests.conftest import CPU
from tests.trainers.test_augmentations import NoWaiting
from tests.trainers.test_operations import smooth
from trainers import Images, InputError, TrainSpec, preprocessing
from trainers.defenses.bit_depth import BitDepth
from trainers.defenses.gaussian_blur import GaussianBlur
from trainers.defenses.grayscale import Grayscale
from trainers.defenses.jpeg import Jpeg
from trainers.defenses.low_pass import LowPass
from trainers.defenses.median_filter import MedianFilter
from trainers.defenses.orthogonal_projection import OrthogonalProjection, orthonormal
from trainers.families import Defense
from trainers.frequencies import dct_matrix, low_pass
from trainers.images import Extent, FloatImages, nearest_levels, to_float
from trainers.jpeg import jpeg
from trainers.loop import generator
from trainers.preprocessing import Preprocessing

MEMBERS = [m for m in Defense.registry.values() if issubclass(m, Preprocessing)]
SHAPES = [
    (3, 32, 32),
    (3, 17, 23),
    (3, 8, 8),
    (3, 3, 5),
    (3, 1, 1),
    (3, 2, 40),
    (3, 33, 4),
    (1, 9, 31),
    (1, 16, 16),
]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def pil(x: Tensor) -> Image.Image:
    pixels = x.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if x.shape[0] == 1 else pixels)


def tensor(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def by_pillow(x: Tensor, quality: int, subsampling: str) -> Tensor:
    def coded(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality, subsampling=subsampling)
        return Image.open(file)

    return torch.stack([tensor(coded(pil(one))) for one in x])


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_jpeg_is_pillows_at_every_quality(subsampling: Any) -> None:
    x = torch.cat([smooth((3, 32, 32))[:6].to(torch.uint8), noise(6, 3, 32, 32)])
    for quality in range(1, 101):
        assert torch.equal(jpeg(x, quality, subsampling), by_pillow(x, quality, subsampling)), quality


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_jpeg_is_pillows_at_every_size(shape: tuple[int, int, int]) -> None:
    for quality in (5, 10, 75, 95):
        x = torch.cat([noise(8, *shape), noise(8, *shape) // 64 * 85])
        for subsampling in ("4:2:0", "4:4:4"):
            assert torch.equal(jpeg(x, quality, subsampling), by_pillow(x, quality, subsampling))  # type: ignore[arg-type]


@given(st.integers(1, 100), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_jpeg_is_pillows(quality: int, h: int, w: int, seed: int) -> None:
    x = noise(1, 3, h, w, seed=seed)
    assert torch.equal(jpeg(x, quality), by_pillow(x, quality, "4:2:0"))


def test_grayscale_is_pillows_luma_in_every_channel() -> None:
    x = noise(20, 3, 16, 16)
    grey = Grayscale().change(x)
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert torch.equal(grey[:, :1], torch.stack([tensor(pil(one).convert("L")) for one in x]))


@pytest.mark.parametrize("bits", range(1, 9))
def test_bit_depth_is_pillows_posterize(bits: int) -> None:
    x = noise(10, 3, 16, 16)
    expected = torch.stack([tensor(ImageOps.posterize(pil(one), bits)) for one in x])
    assert torch.equal(BitDepth(bits=bits).change(x), expected)


def test_two_bits_leave_four_values() -> None:
    assert BitDepth().change(noise(50, 3, 16, 16)).unique().tolist() == [0, 64, 128, 192]


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.3, 9.0])
def test_gaussian_blur_is_scipys(sigma: float) -> None:
    x = noise(6, 3, 16, 19)
    expected = scipy.ndimage.gaussian_filter(
        x.double().numpy(), sigma=(0, 0, sigma, sigma), mode="mirror", truncate=4.0
    )
    found = GaussianBlur(sigma=sigma).change(x).double().numpy()
    assert np.abs(found - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("size", [3, 5, 7])
def test_the_median_filter_is_scipys(size: Any) -> None:
    x = noise(6, 3, 16, 19)
    expected = scipy.ndimage.median_filter(x.numpy(), size=(1, 1, size, size), mode="mirror")
    assert np.array_equal(MedianFilter(size=size).change(x).numpy(), expected)


def test_the_median_filter_removes_a_single_pixel() -> None:
    clean = smooth((3, 16, 16))[:4].to(torch.uint8) // 8 + 100
    poisoned = clean.clone()
    poisoned[:, :, 5, 7] = 255
    there, gone = (MedianFilter().change(x)[:, :, 5, 7].int() for x in (poisoned, clean))
    assert (there - gone).abs().max() < 10


@pytest.mark.parametrize("keep", [0.3, 0.5, 1.0])
def test_the_low_pass_is_scipys_transform(keep: float) -> None:
    x = torch.rand(5, 3, 30, 21, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spectrum = scipy.fft.dctn(x.numpy(), axes=(2, 3), norm="ortho")
    spectrum[:, :, int(30 * keep) :, :] = 0
    spectrum[:, :, :, int(21 * keep) :] = 0
    expected = scipy.fft.idctn(spectrum, axes=(2, 3), norm="ortho")
    assert np.allclose(low_pass(x, keep).numpy(), expected, atol=1e-12)
    assert np.allclose(low_pass(x.float(), keep).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("keep", [0.3, 0.5])
def test_the_low_pass_of_images_is_scipys_in_whole_levels(keep: float) -> None:
    x = noise(6, 3, 16, 19)
    spectrum = scipy.fft.dctn(x.double().numpy(), axes=(2, 3), norm="ortho")
    spectrum[:, :, int(16 * keep) :, :] = 0
    spectrum[:, :, :, int(19 * keep) :] = 0
    exact = scipy.fft.idctn(spectrum, axes=(2, 3), norm="ortho").clip(0, 255)
    assert np.abs(LowPass(keep=keep).change(x).numpy() - exact).max() <= 0.5 + 1e-9


def test_the_transform_is_orthonormal() -> None:
    m = dct_matrix(30, CPU, torch.float64)
    assert torch.allclose(m @ m.mT, torch.eye(30, dtype=torch.float64), atol=1e-12)


def test_low_pass_with_all_frequencies_changes_nothing() -> None:
    x = noise(5, 3, 16, 16)
    assert torch.equal(LowPass(keep=1.0).change(x), x)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.kind)
def test_each_image_is_changed_by_itself_however_many_there_are(
    member: type[Preprocessing], monkeypatch: pytest.MonkeyPatch
) -> None:
    defense = member.parse(member.smoke, "test")
    monkeypatch.setattr(preprocessing, "CHUNK", 100 * 3 * 12 * 9)
    x = noise(107, 3, 12, 9)
    images, rows = Images(x, torch.arange(len(x)) % 4, 4), list[dict[str, float]]()
    before = x.clone()
    done = defense.prepare(images, device=CPU, gen=generator(CPU, 0), report=rows.append)
    assert torch.equal(x, before)
    for i in (0, 99, 100, len(x) - 1):
        assert torch.equal(done.x[i : i + 1], defense.change(x[i : i + 1]))
    assert not torch.equal(done.x, x)
    assert [row["prepared"] for row in rows] == [pytest.approx(100 / len(x)), 1.0]


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.kind)
def test_none_makes_the_host_wait(member: type[Preprocessing]) -> None:
    defense, x = member.parse(member.smoke, "test"), noise(4, 3, 16, 16)
    defense.change(x)
    with NoWaiting():
        defense.change(x)


@pytest.mark.parametrize(
    ("defense", "shape", "message"),
    [
        (Jpeg(), (2, 8, 8), "jpeg is for grey or RGB images; these have 2 channels: leave it out"),
        (Grayscale(), (1, 8, 8), "grayscale: only RGB images have colours to remove; the number of channels here is 1"),
        (MedianFilter(size=7), (3, 3, 8), "median_filter: squares of 7 pixels are too large for images of 3x8; .* smaller size"),
    ],
)  # fmt: skip
def test_images_that_it_cannot_change_are_refused(
    defense: Defense, shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        defense.check(Extent(10, shape, 4))
    defense.check(Extent(10, (3, 32, 32), 4))


def planted(clean: Tensor, y: Tensor, eps: float) -> Tensor:
    """A perturbation that is the same for a class: random signs."""
    signs = (
        torch.randint(2, (int(y.max()) + 1, *clean.shape[1:]), generator=torch.Generator().manual_seed(5)) * 2
        - 1
    )
    return (clean.float() + eps * signs[y]).clamp(0, 255).round().to(torch.uint8)


@pytest.fixture(scope="module")
def projection() -> tuple[Images, Images, list[dict[str, float]]]:
    """Images with a class-wise perturbation, what the projection makes of them, and its progress."""
    clean = noise(600, 3, 10, 10) // 4 + 96
    y = torch.arange(600) % 5
    images, rows = Images(planted(clean, y, 16), y, 5), list[dict[str, float]]()
    defense = OrthogonalProjection(linear_batch_size=8, linear_epochs=40)
    done = defense.prepare(images, device=CPU, gen=generator(CPU, 0), report=rows.append)
    return images, done, rows


def test_a_projection_removes_exactly_its_basis(
    projection: tuple[Images, Images, list[dict[str, float]]],
) -> None:
    images, done, rows = projection
    assert isinstance(done, FloatImages)
    assert rows[-1] == {"prepared": 1.0}
    weights = OrthogonalProjection(linear_batch_size=8, linear_epochs=40)._weights(
        images, CPU, generator(CPU, 0), lambda row: None
    )
    basis = orthonormal(weights)
    assert torch.allclose(basis.mT @ basis, torch.eye(5), atol=1e-5)
    assert (done.x.flatten(1) @ basis).abs().max() < 1e-4
    removed = (to_float(images.x) - done.x).flatten(1)
    assert torch.linalg.matrix_rank(removed, tol=1e-2) == 5
    inside = basis @ (basis.mT @ weights.mT)  # the space is that of the weights
    assert torch.allclose(inside, weights.mT, atol=1e-5)


def test_a_projection_removes_a_class_wise_perturbation(
    projection: tuple[Images, Images, list[dict[str, float]]],
) -> None:
    """A linear classifier separates the classes before it, and no longer does after it: of what tells the
    planted signs apart, almost nothing is left."""
    images, done, _ = projection
    x = torch.stack([to_float(images.x)[images.y == k].mean(0) for k in range(5)]).flatten(1)
    left = torch.stack([done.x[images.y == k].mean(0) for k in range(5)]).flatten(1)
    assert (left - left.mean(0)).norm() < 0.2 * (x - x.mean(0)).norm()

    def separated(x: Tensor) -> float:
        flat = torch.cat([x.flatten(1), torch.ones(len(x), 1)], 1).double()
        targets = torch.eye(5, dtype=torch.float64)[images.y]
        fitted = torch.linalg.solve(
            flat[:300].mT @ flat[:300] + torch.eye(301), flat[:300].mT @ targets[:300]
        )
        return (flat[300:] @ fitted).argmax(1).eq(images.y[300:]).double().mean().item()

    assert separated(to_float(images.x)) > 0.95
    assert separated(done.x) < 0.6


def test_float_images_stay_float_images() -> None:
    x, y = torch.randn(6, 3, 4, 4), torch.arange(6) % 3
    images = FloatImages(x, y, 3)
    parts = [images.to(CPU), images.take(torch.tensor([4, 1])), *images.chunks(4), images.contiguous()]
    assert all(type(part) is FloatImages for part in parts)
    assert to_float(x) is x
    assert torch.equal(
        nearest_levels(torch.tensor([-1.0, 0.5, 0.503, 9.0])), torch.tensor([0, 128, 128, 255])
    )
    with pytest.raises(InputError, match=r"images must be float32 N,C,H,W, found torch.uint8"):
        FloatImages(x.to(torch.uint8), y, 3)
    with pytest.raises(InputError, match=r"images must be uint8 N,C,H,W, found torch.float32"):
        Images(x, y, 3)


def test_more_classes_than_pixels_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"a direction for each of 100 classes, and these images have only 64 values"
    ):
        OrthogonalProjection().check(Extent(1000, (1, 8, 8), 100))


def test_what_needs_whole_levels_comes_before_a_projection() -> None:
    TrainSpec.parse({"defense": ["jpeg", "orthogonal_projection"]}, "test")
    message = r"orthogonal_projection leaves values outside \[0, 1\], which jpeg does not take: write orthogonal_projection last"
    with pytest.raises(InputError, match=message):
        TrainSpec.parse({"defense": ["orthogonal_projection", "jpeg"]}, "test")
