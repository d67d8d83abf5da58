"""Pixels are written as they are listed: one after the other, where they belong, and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from poisons.methods.clean import Identity
from poisons.perturbations.chain import Chain
from poisons.perturbations.delta import Delta
from poisons.perturbations.pixel_write import PixelWrite
from trainers import Images, InputError
from trainers.stored import DamagedError


def pixels(row: Any, column: Any, colour: Any, **rest: Any) -> PixelWrite:
    tensors = torch.tensor(row), torch.tensor(column), torch.tensor(colour, dtype=torch.uint8)
    return PixelWrite(*tensors, (2, 3), **rest)


def grey(labels: list[int], num_classes: int = 3) -> Images:
    """Images of 2x3 pixels and one channel, all of value 100."""
    return Images(
        torch.full((len(labels), 1, 2, 3), 100, dtype=torch.uint8), torch.tensor(labels), num_classes
    )


TWO = pixels([[1, 0], [0, 0], [1, -1]], [[2, 0], [1, 1], [0, -1]], [[[9], [8]], [[7], [6]], [[5], [0]]])
ONE_EACH = pixels([[0], [-1], [1]], [[0], [-1], [2]], [[[1]], [[0]], [[3]]], per="image")


def test_pixels_are_written_to_the_images_of_their_class_in_order() -> None:
    images = grey([2, 0, 1, 0])
    x = TWO.apply(images).x[:, 0]
    assert x[0].tolist() == [[100, 100, 100], [5, 100, 100]], "-1 writes nothing"
    assert x[1].tolist() == [[8, 100, 100], [100, 100, 9]]
    assert torch.equal(x[3], x[1])
    assert x[2].tolist() == [[100, 6, 100], [100, 100, 100]], "the second overwrites the first"
    assert (images.x == 100).all(), "the input is left as it was"
    assert torch.equal(TWO.apply(images.take(torch.tensor([2])), torch.tensor([0])).x[0, 0], x[2]), "by class"


def test_pixels_of_single_images_follow_their_rows() -> None:
    images = grey([0, 0, 0])
    x = ONE_EACH.apply(images).x
    assert x.flatten(1).tolist() == [[1, *[100] * 5], [100] * 6, [*[100] * 5, 3]]
    some = ONE_EACH.apply(images.take(torch.tensor([2, 0])), torch.tensor([2, 0])).x
    assert torch.equal(some, x[[2, 0]])
    assert ONE_EACH.apply(
        images.take(torch.tensor([], dtype=torch.int64)), torch.tensor([], dtype=torch.int64)
    ).x.shape == (0, 1, 2, 3)


def test_more_images_of_fewer_classes_are_fine() -> None:
    assert len(TWO.apply(grey([0, 1] * 50, num_classes=2))) == 100


@pytest.mark.parametrize(
    ("perturbation", "images"),
    [
        (TWO, grey([0], num_classes=4)),
        (TWO, Images(torch.zeros((1, 1, 3, 2), dtype=torch.uint8), torch.tensor([0]), 3)),
        (TWO, Images(torch.zeros((1, 3, 2, 3), dtype=torch.uint8), torch.tensor([0]), 3)),
        (ONE_EACH, grey([0, 0])),
    ],
    ids=["classes", "size", "channels", "images"],
)
def test_images_that_do_not_fit_are_refused(perturbation: PixelWrite, images: Images) -> None:
    with pytest.raises(
        InputError,
        match=r"pixels for 3 x \(1, 2, 3\), a row per (class|image), cannot be applied to images \(\d, \d, \d, \d\) of \d",
    ):
        perturbation.apply(images)


@pytest.mark.parametrize("rows", [[3], [-1], [0, 1], []])
def test_rows_that_do_not_fit_are_refused(rows: list[int]) -> None:
    with pytest.raises(InputError, match="cannot be applied to"):
        ONE_EACH.apply(grey([0]), torch.tensor(rows, dtype=torch.int64))


@pytest.mark.parametrize("perturbation", [TWO, ONE_EACH], ids=["class", "image"])
def test_pixels_are_restored_from_their_columns(perturbation: PixelWrite) -> None:
    columns, values = perturbation.columns(), json.loads(json.dumps(perturbation.to_json()))
    assert {len(column) for column in columns.values()} == {3}
    again = PixelWrite.restore(columns, values)
    assert (again.shape, again.per) == (perturbation.shape, perturbation.per)
    assert torch.equal(again.apply(grey([0, 1, 2])).x, perturbation.apply(grey([0, 1, 2])).x)
    assert again.facts() == perturbation.facts()


def test_facts_list_the_pixels_of_each_class_best_first() -> None:
    assert TWO.facts() == {
        "pixels": [
            {"class": 0, "row": 1, "column": 2, "colour": [9]},
            {"class": 0, "row": 0, "column": 0, "colour": [8]},
            {"class": 1, "row": 0, "column": 1, "colour": [7]},
            {"class": 1, "row": 0, "column": 1, "colour": [6]},
            {"class": 2, "row": 1, "column": 0, "colour": [5]},
        ]
    }
    assert ONE_EACH.facts() == {}


def test_a_chain_is_applied_in_order_and_described_as_one() -> None:
    noise = Delta(torch.full((3, 1, 2, 3), 4, dtype=torch.int8), facts_={"rounds": 1})
    chain = Chain((noise, ONE_EACH, TWO, Identity()))
    images = grey([0, 1, 2])
    assert torch.equal(chain.apply(images).x, TWO.apply(ONE_EACH.apply(noise.apply(images))).x)
    rows = torch.tensor([2, 0])
    assert torch.equal(chain.apply(images.take(rows), rows).x, chain.apply(images).x[rows])
    assert chain.facts() == {"rounds": 1, **TWO.facts()}
    assert (images.x == 100).all()
    with pytest.raises(TypeError, match="a chain is stored link by link"):
        chain.columns()
    with pytest.raises(DamagedError, match="a chain is stored link by link"):
        Chain.restore({}, {})
