"""Where work that can be divided runs: in this process, or in several."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Shared, Item, torch.device], Result]


class Workers(ABC):
    """Processes that apply a function to many items."""

    size: int = 1  # how many items run at a time: use as many, or a multiple

    @abstractmethod
    def map(
        self, work: Work[Shared, Item, Result], shared: Shared, items: Sequence[Item], *, device: torch.device
    ) -> list[Result]:
        """`work(shared, item, device)` for each item, in order. `work` is a module-level function; it may run
        in another process on another device, so its arguments must be picklable and on the host."""


class Serial(Workers):
    """Runs in this process, one item after the other, on `device`."""

    def map(
        self, work: Work[Shared, Item, Result], shared: Shared, items: Sequence[Item], *, device: torch.device
    ) -> list[Result]:
        return [work(shared, item, device) for item in items]
