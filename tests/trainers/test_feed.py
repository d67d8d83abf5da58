"""Batches are the same wherever the images are."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from tests.conftest import CPU
from trainers import Images, InputError, TrainSpec, feed, fit
from trainers.feed import place, stream
from trainers.images import batches


def test_streamed_batches_equal_resident_ones(images: Images) -> None:
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    for one, other in (
        (batches(images, 7, order), stream(images, 7, CPU, order)),
        (batches(images, 50), stream(images, 50, CPU)),
    ):
        pairs = list(zip(one, other, strict=True))
        assert pairs
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


def test_an_abandoned_stream_leaves_no_thread(images: Images) -> None:
    before = threading.active_count()
    walk = stream(images, 4, CPU)
    next(walk)
    walk.close()
    assert threading.active_count() == before


def test_a_streamed_training_equals_a_resident_one(images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TrainSpec.parse({"architecture": "lenet5", "epochs": 1, "batch_size": 16}, "test")
    resident = fit(spec, images, images, seed=0, device=CPU).history
    monkeypatch.setattr(feed, "batches", lambda images, size, order: stream(images, size, CPU, order))
    assert fit(spec, images, images, seed=0, device=CPU).history == resident


def test_images_on_the_right_device_are_not_copied(images: Images) -> None:
    assert place(images, CPU).x.data_ptr() == images.x.data_ptr()


def test_images_are_saved_and_mapped_back(images: Images, tmp_path: Path) -> None:
    images.save(tmp_path / "train.pt")
    back = Images.load(tmp_path / "train.pt")
    assert torch.equal(back.x, images.x)
    assert torch.equal(back.y, images.y)
    assert back.num_classes == 4
    torch.save({"x": images.x, "y": images.y, "num_classes": 3}, tmp_path / "few.pt")
    with pytest.raises(InputError, match=r"few.pt: labels must lie in 0\.\.2, found 0\.\.3"):
        Images.load(tmp_path / "few.pt")
    with pytest.raises(InputError, match="there is no"):
        Images.load(tmp_path / "none.pt")
