"""The checkpoint of a crafting while its surrogate is trained."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

from pydantic import ConfigDict, with_config
from torch import Tensor
from typing_extensions import TypedDict

from trainers.checkpoint import Checkpoint
from trainers.spec import InputError
from trainers.stored import DamagedError, JsonFile

OWNER = "surrogate"


@with_config(ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Kept(TypedDict):
    """A training, its state, and the weights of its network at earlier epochs."""

    training: str
    states: list[Tensor]
    state: dict[str, Any]


KEPT = JsonFile[dict[str, Any]](Kept)


class SurrogateCheckpoint(Checkpoint):
    """Keeps a training in the file of the `crafting` that needs the surrogate, with the weights at earlier
    epochs: `states`, one after each epoch of `marks`. `training` names what is trained, and the arithmetic
    that it is trained in."""

    def __init__(
        self, crafting: Checkpoint, training: str, marks: Collection[int], states: list[Tensor]
    ) -> None:
        super().__init__(crafting.path, crafting.every, crafting.data, crafting.warnings)
        self.crafting, self.training, self.marks, self.states = crafting, training, marks, states
        self.taken = False  # by the crafting, which has begun, and whose surrogate was lost since

    def due(self) -> bool:
        return not self.taken and self.crafting.due()

    def save(self, state: dict[str, Any], *, owner: str) -> None:
        kept = {"training": self.training, "states": self.states, "state": state}
        self.crafting.save(kept, owner=OWNER)

    def load(self, *, owner: str) -> dict[str, Any] | None:
        """None also if the file is of another training, or taken."""
        try:
            found = self.crafting.load(owner=OWNER)
        except InputError:
            self.taken = True
            return None
        if found is None or found.get("training") != self.training:
            return None
        try:
            kept = KEPT.check(found)
        except DamagedError as damage:
            self.reject(f"was damaged ({damage})")
            return None
        state, epochs = dict(kept["state"]), kept["state"].get("history")
        passed = sum(mark <= len(epochs) for mark in self.marks) if isinstance(epochs, list) else -1
        if len(kept["states"]) != passed:
            self.reject("lacks weights of earlier epochs")
            return None
        self.states[:] = kept["states"]
        return state

    def reject(self, why: str) -> None:
        self.states.clear()
        super().reject(why)


def release(crafting: Checkpoint) -> None:
    """Remove the file if it is of a surrogate, whose training has ended, so that the crafting can use it."""
    with suppress(InputError):  # it is of the crafting
        if crafting.load(owner=OWNER) is not None:
            crafting.remove()
