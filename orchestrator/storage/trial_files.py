"""What a trial keeps beside its result: the checkpoint that it goes on from, and the weights."""

from __future__ import annotations

from torch import Tensor, nn

from orchestrator.storage.ledger import CHECKPOINT, WEIGHTS
from poisons import Store
from poisons.store.remote import RemoteCheckpoint
from trainers.checkpoint import write_tensors
from trainers.tensor_files import check_weights, read_tensors


def trial_checkpoint(store: Store, key: str, *, every: float) -> RemoteCheckpoint:
    """Where a trial goes on after a kill, on any machine that shares the store."""
    folder = store.root / "trials" / key
    folder.mkdir(parents=True, exist_ok=True)
    name = f"trials/{key}/{CHECKPOINT}"
    return RemoteCheckpoint(folder / CHECKPOINT, every=every, remote=store.remote, name=name)


def keep_weights(store: Store, key: str, model: nn.Module) -> None:
    """Keep the weights of a trained network in the store. Raises OSError."""
    file = store.root / "trials" / key / WEIGHTS
    write_tensors(file, model.state_dict())
    if store.remote is not None:
        store.remote.upload(file, f"trials/{key}/{WEIGHTS}")
        file.unlink()  # a node's cache does not grow with every trial


def kept_weights(store: Store, key: str, network: nn.Module) -> dict[str, Tensor] | None:
    """The weights of a trained network that the store has, on the host; None if it has none. Raises
    DamagedError if they are not those of such a network, and OSError if the store does not answer."""
    file = store.root / "trials" / key / WEIGHTS
    copy = file.with_name(".weights.download.tmp")
    try:
        if store.remote is not None and store.remote.download(f"trials/{key}/{WEIGHTS}", copy):
            file = copy
        return check_weights(read_tensors(file), network)
    except FileNotFoundError:
        return None
    finally:
        copy.unlink(missing_ok=True)
