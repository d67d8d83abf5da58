"""Memory and time decide how many trials share a GPU, and shares that were too small are remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.estimates.packing import FINE, MOST, OVERHEAD, ROOM, ShareStore, larger, shape_key, share
from orchestrator.storage.locations import open_storage
from orchestrator.storage.trial_spec import TrialSpec

GIB = 2**30
SHAPE = (3, 32, 32)


@pytest.mark.parametrize(
    ("peak", "total", "busy", "trials"),
    [
        (2 * GIB, 140 * GIB, 0.3, 4),  # the GPU is kept at work by four
        (2 * GIB, 140 * GIB, 0.1, 10),
        (2 * GIB, 140 * GIB, 1.0, 1),
        (2 * GIB, 16 * GIB, 0.1, 5),  # 14.4 of 16 GiB, 2.6 each
        (0, 140 * GIB, 0.001, MOST),
        (200 * GIB, 140 * GIB, 0.1, 1),  # it does not fit, and will say so
    ],
)
def test_memory_or_time_decides_how_many_share(peak: int, total: int, busy: float, trials: int) -> None:
    assert int(1 / share(peak, total, busy)) == trials


@given(
    peak=st.integers(0, 200 * GIB),
    total=st.integers(GIB, 200 * GIB),
    busy=st.floats(0, 1, exclude_min=True),
)
def test_trials_that_share_a_gpu_fit_on_it(peak: int, total: int, busy: float) -> None:
    part = share(peak, total, busy)
    fine = round(part * FINE)
    assert part == fine / FINE, "Ray knows four decimals"
    trials = FINE // fine
    assert 1 <= trials <= MOST
    assert trials == 1 or trials * (peak + OVERHEAD) <= ROOM * total
    assert fine * trials <= FINE, "all of them are one GPU at most"
    assert FINE // round(larger(part) * FINE) < trials or part == larger(part) == 1


@pytest.mark.parametrize("busy", [0.0, -1.0, 1.5])
def test_a_busy_share_outside_its_range_is_an_error(busy: float) -> None:
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        share(1, 2, busy)


def test_a_memory_fault_doubles_the_share() -> None:
    assert [larger(part) for part in (0.125, 0.3333, 0.5, 0.75, 1.0)] == [0.25, 0.6666, 1.0, 1.0, 1.0]


def key(count: int = 1000, shape: tuple[int, int, int] = SHAPE, **changes: Any) -> str:
    return shape_key(TrialSpec.parse(changes, "test"), shape, count, 10)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"train": {"epochs": 3}},
        {"train": {"optimizer": {"kind": "sgd", "lr": 0.01}}},
        {"train": {"schedule": "cosine"}},
        {"data": {"poison": "ops"}},
        {"data": {"seed": 4}},
    ],
)
def test_settings_that_do_not_affect_memory_keep_the_shape(changes: dict[str, Any]) -> None:
    assert key(**changes) == key()


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"architecture": {"kind": "resnet18", "width": 32}}},
        {"train": {"batch_size": 64}},
        {"train": {"precision": "float32"}},
        {"train": {"defense": "trades"}},
        {"train": {"ema": 0.99}},
        {"train": {"optimizer": "adamw"}},
        {"train": {"execution": "cuda_graphs"}},
        {"train": {"augmentations": []}},
        {"evaluation": {"attacks": ["pgd"]}},
        {"count": 2000},
        {"shape": (1, 32, 32)},
    ],
)
def test_settings_that_affect_memory_change_the_shape(changes: dict[str, Any]) -> None:
    assert key(**changes) != key()


def test_shares_are_remembered_for_a_shape_and_a_device(tmp_path: Path) -> None:
    shares = ShareStore(open_storage(tmp_path))
    assert shares.recall("aa", "NVIDIA H200") is None
    shares.remember("aa", "NVIDIA H200", {"share": 0.25, "peak_bytes": 7, "busy": 0.3})
    again = ShareStore(open_storage(tmp_path))
    assert (again.recall("aa", "NVIDIA H200") or {})["share"] == 0.25
    assert again.recall("aa", "NVIDIA A100") is None
    assert again.recall("bb", "NVIDIA H200") is None
    again.remember("aa", "NVIDIA H200", {"share": 0.125})
    assert (shares.recall("aa", "NVIDIA H200") or {})["share"] == 0.125, "measured again"
    assert (tmp_path / "shapes" / "aa-nvidia-h200.json").exists()


def test_after_a_memory_fault_a_share_only_grows(tmp_path: Path) -> None:
    shares = ShareStore(open_storage(tmp_path))
    shares.remember("aa", "gpu", {"share": 0.25, "peak_bytes": 7})
    assert shares.grow("aa", "gpu", 0.25) == 0.5
    assert shares.grow("aa", "gpu", 0.25) == 0.5, (
        "a second trial of this shape, started before that was known"
    )
    assert shares.remember("aa", "gpu", {"share": 0.125})["share"] == 0.5
    assert shares.grow("aa", "gpu", 0.5) == 1.0
    assert shares.grow("aa", "gpu", 1.0) == 1.0
    assert (shares.recall("aa", "gpu") or {})["peak_bytes"] == 7


@pytest.mark.parametrize("text", ["", "{", "[]", '{"share": 0}', '{"share": "much"}'])
def test_a_damaged_stored_share_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / "aa-gpu.json").write_text(text)
    assert ShareStore(open_storage(tmp_path)).recall("aa", "gpu") is None
