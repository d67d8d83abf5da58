"""Variants of One-Pixel Shortcut without its search, without a fixed position, or without a fixed colour."""

from __future__ import annotations

import itertools

import pytest
import torch

from poisons import CraftContext, Poison
from poisons.methods.ops import Ops
from poisons.methods.ops_color import OpsColor, distinct_colours, farthest
from poisons.methods.ops_position import OpsPosition
from poisons.methods.randpix import RandPix
from poisons.perturbations.pixel_write import PixelWrite
from tests.conftest import CPU
from trainers import Images, InputError


def crafted(poison: Poison, images: Images, seed: int = 0) -> PixelWrite:
    found = poison.craft(images, seed=seed)
    assert isinstance(found, PixelWrite)
    return found


def test_randpix_draws_a_pixel_for_each_class_by_its_seed(images: Images) -> None:
    pixels = crafted(RandPix(), images)
    listed = pixels.facts()["pixels"]
    assert [pixel["class"] for pixel in listed] == [0, 1, 2, 3]
    assert all(v in (0, 255) for pixel in listed for v in pixel["colour"])
    assert len({str(crafted(RandPix(), images, seed).facts()) for seed in range(10)}) == 10
    assert listed == crafted(RandPix(), images).facts()["pixels"]
    assert ((pixels.apply(images).x != images.x).any(1).flatten(1).sum(1) <= 1).all()
    assert RandPix().transfers


def test_randpix_draws_from_all_candidates_and_no_two_classes_share_one() -> None:
    few = Images(
        torch.zeros((1, 2, 2, 3), dtype=torch.uint8), torch.tensor([0]), 24
    )  # 6 positions, 4 colours
    listed = crafted(RandPix(), few).facts()["pixels"]
    assert sorted((p["row"], p["column"], *p["colour"]) for p in listed) == sorted(
        itertools.product(range(2), range(3), (0, 255), (0, 255))
    )
    with pytest.raises(InputError, match="25 classes cannot have a pixel each: there are 24 candidates"):
        RandPix().craft(Images(few.x, few.y, 25), seed=0)


def test_ops_position_keeps_the_position_and_draws_the_colour(images: Images) -> None:
    for settings in ({}, {"objective": "paper"}, {"objective": "art", "exclusion": "none"}):
        searched = crafted(Ops.parse(settings, "test"), images)
        pixels = crafted(OpsPosition.parse(settings, "test"), images)
        assert pixels.per == "image"
        assert torch.equal(pixels.row, searched.row[images.y])
        assert torch.equal(pixels.column, searched.column[images.y])
    poisoned = pixels.apply(images).x
    at = poisoned[torch.arange(40), :, pixels.row[:, 0], pixels.column[:, 0]]
    assert set(at.flatten().tolist()) == {0, 255}
    assert len(at.unique(dim=0)) == 8, "every colour is drawn"
    assert not torch.equal(pixels.colour, crafted(OpsPosition(), images, seed=1).colour)
    assert not OpsPosition().transfers


def test_ops_position_leaves_classes_without_images_out() -> None:
    x = torch.randint(256, (6, 1, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = Images(x, torch.tensor([2, 2, 2, 0, 0, 0]), 4)
    assert (crafted(OpsPosition(), images).row >= 0).all()


def test_ops_position_reuses_the_moments_of_ops(images: Images) -> None:
    names = []

    def cache(name, make):  # type: ignore[no-untyped-def]
        names.append(name)
        return make()

    OpsPosition().craft(images, seed=0, context=CraftContext(device=CPU, cache=cache))
    assert names == ["moments"]


def test_ops_color_paints_each_image_where_it_is_farthest(images: Images) -> None:
    pixels = crafted(OpsColor(), images)
    palette = [[0, 0, 0], [0, 0, 255], [0, 255, 0], [0, 255, 255]]
    for i, (x, k) in enumerate(zip(images.x, images.y.tolist(), strict=True)):
        distance = (x.int() - torch.tensor(palette[k])[:, None, None]).abs().sum(0)
        best = (distance == distance.max()).nonzero()[-1].tolist()
        assert [pixels.row[i].item(), pixels.column[i].item()] == best
        assert pixels.colour[i].tolist() == [palette[k]]
    assert not OpsColor().transfers
    assert pixels.facts() == {}


def test_ops_color_goes_chunk_by_chunk(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = crafted(OpsColor(), images)
    monkeypatch.setattr("poisons.store.build.CHUNK", 3 * 32 * 32 * 7)
    assert all(
        torch.equal(whole.columns()[name], t) for name, t in crafted(OpsColor(), images).columns().items()
    )
    nothing = Images(images.x[:0], images.y[:0], 4)
    assert crafted(OpsColor(), nothing).apply(nothing).x.shape == (0, 3, 32, 32)


def test_ties_between_positions_go_to_the_last() -> None:
    x = torch.zeros((1, 2, 2, 3), dtype=torch.uint8)
    assert farthest(x, torch.tensor([[255, 0]], dtype=torch.uint8)).tolist() == [5]
    x[0, 1, 0, 1] = 3
    assert farthest(x, torch.tensor([[255, 0]], dtype=torch.uint8)).tolist() == [1]
    large = torch.full((2, 3, 300, 300), 255, dtype=torch.uint8)  # farther than 16 bits hold
    assert farthest(large, torch.zeros((2, 3), dtype=torch.uint8)).tolist() == [89_999] * 2


def test_colours_are_distinct_however_many_and_extremes_come_first() -> None:
    assert distinct_colours(8, 3).tolist() == [list(v) for v in itertools.product((0, 255), repeat=3)]
    assert distinct_colours(4, 1).flatten().tolist() == [0, 255, 128, 85]
    for count, channels in ((10, 3), (100, 3), (1000, 3), (256, 1), (300, 2)):
        found = distinct_colours(count, channels)
        assert len(found.unique(dim=0)) == len(found) == count
        few = distinct_colours(count // 2, channels)
        assert torch.equal(found[: len(few)], few)
    with pytest.raises(InputError, match="257 classes cannot have a colour each: there are 256"):
        distinct_colours(257, 1)
