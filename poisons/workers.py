"""Who does the work that can be shared: this process alone, or several."""

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
    """Processes that do like work on unlike items."""

    size: int = 1  # how many items are worked on at a time: make as many, or a multiple

    @abstractmethod
    def map(
        self, work: Work[Shared, Item, Result], shared: Shared, items: Sequence[Item], *, device: torch.device
    ) -> list[Result]:
        """`work(shared, item, device)` of each item, in their order. `work` is a module's function; it may
        run in another process, on another device, so all it is given can be pickled and lies on the host."""


class Serial(Workers):
    """This process, one item after the other, on `device`."""

    def map(
        self, work: Work[Shared, Item, Result], shared: Shared, items: Sequence[Item], *, device: torch.device
    ) -> list[Result]:
        return [work(shared, item, device) for item in items]
