"""The moments are exact, and the same however the images are cut."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from poisons import CraftContext
from poisons.arrow import Writer, read_images
from poisons.methods import moments as module
from poisons.methods.moments import Moments, gathered, moments, pairs
from poisons.workers import Workers
from tests.conftest import CPU
from trainers import Images


class Distant(Workers):
    """A workers of which each member sees what was pickled for it."""

    def __init__(self, size: int) -> None:
        self.size = size

    def map(
        self,
        work: Callable[[Any, Any, torch.device], Any],
        shared: Any,
        items: Sequence[Any],
        *,
        device: torch.device,
    ) -> list[Any]:
        def distant(value: Any) -> Any:
            return pickle.loads(pickle.dumps(value))

        return [distant(distant(work)(distant(shared), distant(item), device)) for item in items]


def plain(images: Images, keep: torch.Tensor | None = None) -> Moments:
    """By the definition, in int64."""
    k, (c, h, w) = images.num_classes, images.shape
    keep = torch.ones(len(images), dtype=torch.bool) if keep is None else keep
    n = torch.stack([((images.y == i) & keep).sum() for i in range(k)])
    first = torch.zeros((k, c, h, w), dtype=torch.int64)
    second = torch.zeros((k, c * (c + 1) // 2, h, w), dtype=torch.int64)
    for i in range(k):
        x = images.x[(images.y == i) & keep].long()
        first[i] = x.sum(0)
        second[i] = torch.stack([(x[:, a] * x[:, b]).sum(0) for a in range(c) for b in range(a, c)])
    return Moments(n, first, second)


def same(a: Moments, b: Moments) -> bool:
    return all(
        torch.equal(x.long(), y.long())
        for x, y in zip(*(tuple(m.tensors().values()) for m in (a, b)), strict=True)
    )


def noisy(n: int, shape: tuple[int, int, int], classes: int, seed: int = 0) -> Images:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.integers(0, 256, (n, *shape), dtype=np.uint8))
    return Images(x, torch.from_numpy(rng.integers(0, classes, n)), classes)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(0, 40),
    channels=st.integers(1, 4),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    classes=st.integers(1, 5),
    workers=st.integers(1, 9),
    share=st.sampled_from([None, 0.0, 0.4, 1.0]),
    per_chunk=st.integers(1, 50),
    seed=st.integers(0, 2**31),
)
def test_any_split_gives_the_same_moments(
    n: int,
    channels: int,
    size: tuple[int, int],
    classes: int,
    workers: int,
    share: float | None,
    per_chunk: int,
    seed: int,
) -> None:
    images = noisy(n, (channels, *size), classes, seed)
    keep = None if share is None else torch.rand(n, generator=torch.Generator().manual_seed(seed)) < share
    whole = plain(images, keep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_per_chunk", lambda _: per_chunk)
        assert same(moments(images, keep), whole)
        assert same(gathered(images, CraftContext(workers=Distant(workers)), keep=keep), whole)
        cut = n // 3
        assert same(moments(images, keep, 0, cut) + moments(images, keep, cut), whole)


@pytest.mark.parametrize(("tile", "depth"), [(1, 1), (7, 2), (64, 3), (2**20, 256)])
def test_chunks_of_any_size_give_the_same_moments(
    monkeypatch: pytest.MonkeyPatch, tile: int, depth: int
) -> None:
    images = noisy(60, (3, 5, 4), 3)
    monkeypatch.setattr(module, "TILE", tile)
    monkeypatch.setattr(module, "DEPTH", depth)
    assert same(moments(images), plain(images))


def test_many_white_images_do_not_overflow() -> None:
    """More of one class than int32 holds the squares of, and than one piece."""
    n = 70_000
    white = Images(torch.full((n, 2, 1, 1), 255, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64), 2)
    found = moments(white)
    assert found.n.tolist() == [n, 0]
    assert found.first[0].flatten().tolist() == [255 * n] * 2
    assert found.second[0].flatten().tolist() == [255 * 255 * n] * 3
    assert not found.second[1].any()


def test_any_memory_layout_of_pixels_is_accepted(images: Images) -> None:
    strided = Images(images.x.contiguous(memory_format=torch.channels_last), images.y, 4)
    assert same(moments(strided), plain(images))
    part = Images(images.x[::2, :, 1:, ::3], images.y[::2], 4)
    assert same(moments(part), plain(part))


def test_sums_are_added_in_place_or_not(images: Images) -> None:
    one, other = moments(images, stop=10), moments(images, start=10)
    both = one + other
    assert not same(one, both)
    kept = one.second
    one += other
    assert same(one, both)
    assert one.second is kept
    assert same(Moments(**one.tensors()), both)
    assert {len(t) for t in both.tensors().values()} == {4}
    assert pairs(3) == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]


def test_images_in_a_file_are_never_read_whole(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Writer(tmp_path / "data.arrow") as writer:
        for chunk in images.chunks(7):
            writer.append(chunk, torch.arange(len(chunk)))
        writer.close()
    stored = read_images(tmp_path / "data.arrow")
    monkeypatch.setattr(module, "_per_chunk", lambda _: 9)
    assert same(gathered(stored, CraftContext(workers=Distant(3))), plain(images))
    sizes = []
    read = type(stored).chunks

    def watched(self: Images, size: int, start: int = 0, stop: int | None = None) -> Any:
        sizes.append(size)
        return read(self, size, start, stop)  # type: ignore[arg-type]

    monkeypatch.setattr(type(stored), "chunks", watched)
    stored.x.zero_()  # the map is private: what is read comes from the file
    assert same(moments(stored), plain(images))
    assert sizes == [9]


def test_the_context_caches_what_is_computed_once(images: Images) -> None:
    names = []

    def cache(name: str, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        names.append(name)
        return plain(images.take(torch.arange(5))).tensors()

    found = gathered(images, CraftContext(device=CPU, cache=cache), name="some")
    assert same(found, plain(images.take(torch.arange(5))))
    assert names == ["some"]


def test_a_chunk_holds_more_images_where_there_are_more_sums() -> None:
    def size(n: int, shape: tuple[int, int, int], classes: int) -> int:
        x = torch.empty((1, *shape), dtype=torch.uint8).expand(n, *shape)
        return module._per_chunk(Images(x, torch.zeros(n, dtype=torch.int64), classes)) * x[0].numel()

    assert 2**24 - 3072 < size(9, (3, 32, 32), 10) <= 2**24
    assert 2**24 < size(9, (3, 32, 32), 100) <= 2**26
    assert 2**25 < size(9, (3, 224, 224), 100) <= 2**26
    assert size(1, (3, 8000, 8000), 2) == 3 * 8000 * 8000, "one image at least"


def test_sums_are_as_wide_as_the_images_of_a_class_are_many() -> None:
    """33,025 products of 255 are the most that 31 bits hold; parts of such a set are as wide as the whole."""
    for n, kind in ((33_025, torch.int32), (33_026, torch.int64)):
        white = Images(torch.full((n, 1, 1, 1), 255, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64), 1)
        whole = moments(white)
        assert whole.second.dtype == kind
        assert int(whole.second.sum()) == n * 255**2
        assert moments(white, None, 0, 10).second.dtype == kind
    half = moments(Images(white.x[:20_000], white.y[:20_000], 1))
    assert half.second.dtype == torch.int32
    assert int((half + half).second.sum()) == 40_000 * 255**2
