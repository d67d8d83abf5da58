"""What a trial keeps beside its result: the checkpoint that it goes on from, and the weights."""

from __future__ import annotations

from torch import nn

from poisons import Store
from poisons.shelf import ShelvedCheckpoint
from trainers.checkpoint import write_tensors


def trial_checkpoint(store: Store, key: str, *, every: float) -> ShelvedCheckpoint:
    """Where a trial goes on after a kill, on any machine that shares the store."""
    folder = store.root / "trials" / key
    folder.mkdir(parents=True, exist_ok=True)
    name = f"trials/{key}/checkpoint.pt"
    return ShelvedCheckpoint(folder / "checkpoint.pt", every=every, shelf=store.shelf, name=name)


def keep_weights(store: Store, key: str, model: nn.Module) -> None:
    """Keep the weights of a trained network in the store. Raises OSError."""
    file = store.root / "trials" / key / "weights.pt"
    write_tensors(file, model.state_dict())
    if store.shelf is not None:
        store.shelf.upload(file, f"trials/{key}/weights.pt")
        file.unlink()  # a node's copy does not grow with every trial
