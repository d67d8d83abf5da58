"""The files of a trial beside its result: the checkpoint that it resumes from, and its weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from orchestrator.storage.ledger import CHECKPOINT, WEIGHTS
from poisons import Store
from trainers.checkpoint import Checkpoint, write_tensors
from trainers.stored import DamagedError
from trainers.tensor_files import check_weights, read_tensors


def trial_checkpoint(store: Store, key: str, *, every: float) -> Checkpoint:
    """The checkpoint from which a trial resumes after a kill, on any machine that shares the store."""
    return store.checkpoint(f"trials/{key}/{CHECKPOINT}", every=every)


def keep_weights(store: Store, key: str, model: nn.Module) -> None:
    """Store the weights of a trained network. Raises OSError."""
    name = f"trials/{key}/{WEIGHTS}"
    write_tensors(store.root / name, model.state_dict())
    store.share(name)


def final_weights(store: Store, key: str) -> Mapping[str, Tensor] | None:
    """The stored weights of a finished trial, whatever its network; None if there are none, or they are
    damaged. OSError if the store does not answer."""
    with store.shared(f"trials/{key}/{WEIGHTS}") as file:
        try:
            found = read_tensors(file)
        except (FileNotFoundError, DamagedError):
            return None
    return found if isinstance(found, dict) else None


def kept_weights(store: Store, key: str, network: nn.Module) -> dict[str, Tensor] | None:
    """The stored weights of a trained network, on the host; None if there are none. Raises DamagedError if
    they do not fit the network, and OSError if the store does not answer."""
    with store.shared(f"trials/{key}/{WEIGHTS}") as file:
        try:
            return check_weights(read_tensors(file), network)
        except FileNotFoundError:
            return None
