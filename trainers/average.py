"""An exponential moving average of a network's weights (Polyak, Juditsky; 1992), kept on the device.

Unlike torch's AveragedModel, it does not copy a counter to the device at every step, which would stall the
host.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Average:
    """`model` is the average: a copy of the network after the first step, then moved towards the network by 1
    - `decay` at every step. Running statistics are averaged like weights, counters are copied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.begun = copy.deepcopy(model), decay, False

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Update the average after one more training step."""
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        moved = [(a, b) for a, b in pairs if self.begun and a.is_floating_point()]
        for a, b in pairs:
            if not (self.begun and a.is_floating_point()):
                a.copy_(b)
        if moved:
            torch._foreach_lerp_([a for a, _ in moved], [b for _, b in moved], 1 - self.decay)
        self.begun = True

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "begun": self.begun}

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.begun = state["begun"]


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
