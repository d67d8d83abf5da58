"""Images are checked on the way in; subsets are balanced and nested."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainers import Images, InputError
from trainers.images import balanced, batches


def of(labels: list[int], num_classes: int) -> Images:
    return Images(
        torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8),
        torch.tensor(labels, dtype=torch.int64),
        num_classes,
    )


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 60), st.integers(0, 30))
def test_a_subset_is_balanced_and_lies_inside_larger_ones(labels: list[int], limit: int, more: int) -> None:
    images = of(labels, 5)
    small, large = (set(images.balanced(n).tolist()) for n in (limit, limit + more))
    assert small <= large
    assert len(small) == min(limit, len(labels))
    counts = torch.bincount(images.y[sorted(small)], minlength=5)
    whole = torch.bincount(images.y, minlength=5)
    fair = max(counts.tolist())
    assert all(c >= min(w, fair - 1) for c, w in zip(counts.tolist(), whole.tolist(), strict=True))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "must be uint8 N,C,H,W, found torch.float32"),
        (torch.zeros(2, 3, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "must be uint8 N,C,H,W"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"int64 of shape \(2,\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 9]), r"must lie in 0\.\.4, found 0\.\.9"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([-1, 0]), r"found -1\.\.0"),
    ],
)  # fmt: skip
def test_invalid_images_are_refused(x: torch.Tensor, y: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Images(x, y, 5)


def test_batches_cover_everything_once(images: Images) -> None:
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    parts = list(batches(images, 16, order))
    assert [len(x) for x, _ in parts] == [16, 16, 8]
    assert torch.equal(torch.cat([x for x, _ in parts]), images.x[order].float() / 255)
    assert torch.equal(torch.cat([y for _, y in parts]), images.y[order])


def in_turn(labels: torch.Tensor, num_classes: int, limit: int) -> torch.Tensor:
    """A balanced subset, class by class."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    labels, turn = labels[order], torch.empty_like(labels)
    for k in range(num_classes):
        turn[labels == k] = torch.arange(int((labels == k).sum()))
    return order[torch.argsort(turn * num_classes + labels, stable=True)[:limit]].sort().values


@given(st.lists(st.integers(0, 6), min_size=2, max_size=80), st.integers(1, 79))
def test_the_subset_equals_a_round_robin_over_classes(labels: list[int], limit: int) -> None:
    assert balanced(torch.tensor(labels), limit).tolist() == (
        in_turn(torch.tensor(labels), 7, limit).tolist() if limit < len(labels) else list(range(len(labels)))
    )


def test_a_subset_takes_no_longer_for_many_classes() -> None:
    images = of([0, 2**40, 1, 2**40, 5] * 4, 2**62)
    assert len(images.balanced(3)) == 3
