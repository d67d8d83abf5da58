"""A picture shows each class clean, poisoned and changed, and each pixel where it is and in its colour."""

from __future__ import annotations

import builtins
import io
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from poisons.exchange.picture import EDGE, GAP, GREY, LEFT, LINE, MARGIN, draw
from poisons.methods.clean import Identity
from poisons.methods.cuda import Cuda
from poisons.methods.ops import uniform_noise
from poisons.perturbations.chain import Chain
from poisons.perturbations.pixel_write import PixelWrite
from trainers import Images, InputError


def opened(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def tile(pixels: np.ndarray, line: int, column: int, factor: int, shape: tuple[int, int]) -> np.ndarray:
    """A tile of the grid's first block, back at the size of an image."""
    height, width = (side * factor for side in shape)
    top = MARGIN + LINE + line * (height + GAP)
    left = MARGIN + LEFT + column * (width + GAP)
    return pixels[top : top + height, left : left + width][::factor, ::factor]


def some(shape: tuple[int, ...], classes: int) -> Images:
    gen = torch.Generator().manual_seed(0)
    return Images(
        torch.randint(256, shape, generator=gen, dtype=torch.uint8), torch.arange(shape[0]) % classes, classes
    )


def written(images: Images, colour: tuple[int, ...]) -> PixelWrite:
    """One pixel for each class k: row k, column k + 1 (as far as the image goes)."""
    k = torch.arange(images.num_classes)[:, None]
    _, height, width = images.shape
    colours = torch.tensor(colour, dtype=torch.uint8).expand(len(k), 1, -1)
    return PixelWrite(k % height, (k + 1) % width, colours, (height, width))


def test_filters_are_drawn_below_the_images_that_they_change(images: Images) -> None:
    filtering = Cuda().craft(images, seed=0)
    pixels = opened(draw(images, filtering.apply(images), filtering))
    for k, one in enumerate(filtering.filters):
        shown = tile(pixels, 3, k, 32, (3, 3))
        grey = np.round(one.numpy() / one.max().item() * 255)
        assert np.array_equal(shown, np.repeat(grey[:, :, None], 3, 2))


def test_each_class_is_shown_clean_poisoned_and_changed(images: Images) -> None:
    noise = uniform_noise(images, Fraction(8, 255), without=torch.zeros(40, dtype=torch.bool), seed=0)
    poisoned = noise.apply(images)
    pixels = opened(draw(images, poisoned, noise))
    for k in range(4):
        before, after = (x[k].permute(1, 2, 0).int().numpy() for x in (images.x, poisoned.x))
        assert np.array_equal(tile(pixels, 0, k, 3, (32, 32)), before)
        assert np.array_equal(tile(pixels, 1, k, 3, (32, 32)), after)
        change = GREY + np.round((after - before) * (127 / 8))
        assert np.array_equal(tile(pixels, 2, k, 3, (32, 32)), change)


def test_the_image_of_a_class_is_the_first_that_was_changed(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poisons.store.build.CHUNK", 3 * 32 * 32 * 7)
    x = images.x.clone()
    x[[21, 25, 30]] ^= 255
    pixels = opened(draw(images, Images(x, images.y, 4)))
    for k, row in enumerate((0, 21, 30, 3)):
        assert np.array_equal(tile(pixels, 1, k, 3, (32, 32)), x[row].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("shape", [(40, 3, 32, 32), (12, 1, 20, 36), (8, 1, 5, 4), (8, 4, 40, 30)])
def test_chosen_pixels_are_at_their_place_in_their_colour(shape: tuple[int, int, int, int]) -> None:
    images, (_, channels, height, width) = some(shape, 4), shape
    write = written(images, (255, 0, 255, 7)[:channels])
    shown = (255, 0, 255) if channels >= 3 else (255, 255, 255)
    pixels = opened(draw(images, write.apply(images), write))
    factor, cell = round(96 / max(height, width)), round(640 / max(height, width))
    for k in range(4):
        panel = tile(pixels, 3, k, factor, (height, width))
        assert tuple(panel[k % height, (k + 1) % width]) == shown
        assert (panel == GREY).all(2).sum() == height * width - 1
    block = LINE + 4 * (height * factor + GAP) + 3 * GAP
    top, left = 2 * MARGIN + LINE + block + LINE + EDGE, MARGIN + EDGE  # of the map of all classes
    for k in range(4):
        row, column = k % height, (k + 1) % width
        assert tuple(pixels[top + row * cell, left + column * cell]) == shown
        assert tuple(pixels[top + (row + 1) * cell - 1, left + (column + 1) * cell - 1]) == shown
    assert tuple(pixels[top + height * cell - 1, left]) == (GREY,) * 3


def test_pixels_do_not_hide_the_noise_below_them(images: Images) -> None:
    noise = uniform_noise(images, Fraction(8, 255), without=torch.zeros(40, dtype=torch.bool), seed=0)
    chain = Chain((noise, written(images, (0, 0, 0))))
    change = tile(opened(draw(images, chain.apply(images), chain)), 2, 3, 3, (32, 32))
    assert change[10:].max() == 255
    assert change[10:].min() == 1


def test_many_classes_wrap_and_omitted_ones_are_counted() -> None:
    images = some((300, 1, 28, 28), 100)
    poisoned = Images(255 - images.x, images.y, 100)
    pixels = opened(draw(images, poisoned))
    assert pixels.shape[1] <= 2100
    few = (images.y < 40).nonzero().squeeze(1)
    less = opened(draw(images.take(few), poisoned.take(few)))
    assert less.shape == pixels.shape, "the first 40 classes"
    differ = (less != pixels).any((1, 2)).nonzero()[0]
    assert len(differ)
    assert differ.min() > len(pixels) - LINE - 2 * MARGIN, "in nothing but what is said below"


def test_clean_images_stand_alone(images: Images) -> None:
    alone, still = (opened(draw(images, images, how)) for how in (None, Identity()))
    assert np.array_equal(alone, still)
    assert len(alone) < 200, "one line of images"


def test_large_images_are_shown_smaller() -> None:
    images = some((2, 3, 700, 500), 2)
    assert opened(draw(images, Images(255 - images.x, images.y, 2))).shape[0] < 3 * 300


def test_without_pillow_the_message_says_what_to_install(
    images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: object) -> object:
        if name == "PIL":
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match="pip install pillow"):
        draw(images, images)
