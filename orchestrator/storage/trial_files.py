"""The files of a trial beside its result: the checkpoint that it resumes from, and its weights."""

from __future__ import annotations

from torch import Tensor, nn

from orchestrator.storage.ledger import CHECKPOINT, WEIGHTS
from poisons import Store
from poisons.store.shelf import ShelvedCheckpoint
from trainers.checkpoint import write_tensors
from trainers.tensor_files import check_weights, read_tensors


def trial_checkpoint(store: Store, key: str, *, every: float) -> ShelvedCheckpoint:
    """The checkpoint from which a trial resumes after a kill, on any machine that shares the store."""
    folder = store.root / "trials" / key
    folder.mkdir(parents=True, exist_ok=True)
    name = f"trials/{key}/{CHECKPOINT}"
    return ShelvedCheckpoint(folder / CHECKPOINT, every=every, shelf=store.shelf, name=name)


def keep_weights(store: Store, key: str, model: nn.Module) -> None:
    """Store the weights of a trained network. Raises OSError."""
    file = store.root / "trials" / key / WEIGHTS
    write_tensors(file, model.state_dict())
    if store.shelf is not None:
        store.shelf.upload(file, f"trials/{key}/{WEIGHTS}")
        file.unlink()  # a node's copy does not grow with every trial


def kept_weights(store: Store, key: str, network: nn.Module) -> dict[str, Tensor] | None:
    """The stored weights of a trained network, on the host; None if there are none. Raises DamagedError if
    they do not fit the network, and OSError if the store does not answer."""
    file = store.root / "trials" / key / WEIGHTS
    copy = file.with_name(".weights.download.tmp")
    try:
        if store.shelf is not None and store.shelf.download(f"trials/{key}/{WEIGHTS}", copy):
            file = copy
        return check_weights(read_tensors(file), network)
    except FileNotFoundError:
        return None
    finally:
        copy.unlink(missing_ok=True)
