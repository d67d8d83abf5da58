"""The checkpoint of a crafting while its surrogate is trained."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

from torch import Tensor

from trainers.checkpoint import Checkpoint
from trainers.spec import InputError

OWNER = "surrogate"


class SurrogateCheckpoint(Checkpoint):
    """Keeps a training in the file of the `crafting` that needs the surrogate, with the weights at earlier
    epochs: `states`, one after each epoch of `marks`."""

    def __init__(self, crafting: Checkpoint, marks: Collection[int], states: list[Tensor]) -> None:
        super().__init__(crafting.path, crafting.every, crafting.data, crafting.warnings)
        self.crafting, self.marks, self.states = crafting, marks, states
        self.taken = False  # by the crafting, which has begun, and whose surrogate was lost since

    def due(self) -> bool:
        return not self.taken and self.crafting.due()

    def save(self, state: dict[str, Any], *, owner: str) -> None:
        kept = {"training": owner, "states": self.states, "state": state}
        self.crafting.save(kept, owner=OWNER)

    def load(self, *, owner: str) -> dict[str, Any] | None:
        """None also if the file is of another training, or taken."""
        try:
            found = self.crafting.load(owner=OWNER)
        except InputError:
            self.taken = True
            return None
        if found is None or found.get("training") != owner or not isinstance(found.get("state"), dict):
            return None
        state, states = dict(found["state"]), found.get("states")
        epochs = len(state["history"]) if isinstance(state.get("history"), list) else 0
        if not isinstance(states, list) or len(states) != sum(mark <= epochs for mark in self.marks):
            self.reject("lacks weights of earlier epochs")
            return None
        self.states[:] = states
        return state

    def reject(self, why: str) -> None:
        self.states.clear()
        super().reject(why)


def release(crafting: Checkpoint) -> None:
    """Remove the file if it is of a surrogate, whose training has ended, so that the crafting can use it."""
    with suppress(InputError):  # it is of the crafting
        if crafting.load(owner=OWNER) is not None:
            crafting.remove()
