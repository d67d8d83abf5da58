"""The files of a trial beside its result: the checkpoint that it resumes from, and its weights."""

from __future__ import annotations

from torch import Tensor, nn

from orchestrator.storage.ledger import CHECKPOINT, WEIGHTS
from poisons import Store
from poisons.store.remote import RemoteCheckpoint
from trainers.checkpoint import write_tensors
from trainers.tensor_files import check_weights, read_tensors


def trial_checkpoint(store: Store, key: str, *, every: float) -> RemoteCheckpoint:
    """The checkpoint from which a trial resumes after a kill, on any machine that shares the store."""
    folder = store.root / "trials" / key
    folder.mkdir(parents=True, exist_ok=True)
    name = f"trials/{key}/{CHECKPOINT}"
    return RemoteCheckpoint(folder / CHECKPOINT, every=every, remote=store.remote, name=name)


def keep_weights(store: Store, key: str, model: nn.Module) -> None:
    """Store the weights of a trained network. Raises OSError."""
    file = store.root / "trials" / key / WEIGHTS
    write_tensors(file, model.state_dict())
    if store.remote is not None:
        store.remote.upload(file, f"trials/{key}/{WEIGHTS}")
        file.unlink()  # a node's cache does not grow with every trial


def kept_weights(store: Store, key: str, network: nn.Module) -> dict[str, Tensor] | None:
    """The stored weights of a trained network, on the host; None if there are none. Raises DamagedError if
    they do not fit the network, and OSError if the store does not answer."""
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
