"""The kind of a fault decides whether work is retried."""

from __future__ import annotations

import errno

import pytest

from orchestrator.execution.faults import fault, is_out_of_memory
from poisons.durable import StoreError
from trainers import InputError
from trainers.loop import DivergenceError, OutOfMemoryError


@pytest.mark.parametrize(
    ("error", "kind", "poisoned"),
    [
        (InputError("8x8 images are too small"), "config", False),
        (OutOfMemoryError("out of memory on cuda"), "memory", False),
        (MemoryError(), "memory", False),
        (OSError(errno.ENOSPC, "No space left on device"), "machine", False),
        (OSError(errno.ESTALE, "Stale file handle"), "machine", False),
        (ConnectionResetError(), "machine", False),
        (StoreError("could not be written"), "machine", False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "machine", True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "machine", True),
        (RuntimeError("uncorrectable ECC error encountered"), "machine", True),
        (RuntimeError("shape '[3]' is invalid"), "trial", False),
        (DivergenceError("the loss was not finite", [{"epoch": 1.0}]), "trial", False),
        (KeyError("x"), "trial", False),
    ],
)
def test_every_exception_is_classified(error: Exception, kind: str, poisoned: bool) -> None:
    found = fault(error)
    assert (found.kind, found.poisoned) == (kind, poisoned)
    assert found.error.startswith(type(error).__name__)
    assert "poisoned" not in found.to_json()


def test_a_divergence_keeps_the_epochs_before_it() -> None:
    assert fault(DivergenceError("no", [{"epoch": 1.0}])).to_json()["history"] == [{"epoch": 1.0}]


@pytest.mark.parametrize(
    ("why", "memory"),
    [
        ("OutOfMemoryError: Task was killed due to the node running low on memory.", True),
        ("3 worker(s) were killed due to the node running low on memory.", True),
        ("The actor never ran - it was cancelled before it started running.", False),
    ],
)
def test_memory_is_recognised_in_what_ray_says(why: str, memory: bool) -> None:
    assert is_out_of_memory(why) == memory
