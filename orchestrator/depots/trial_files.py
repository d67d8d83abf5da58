"""What a trial keeps beside its result: the checkpoint that it goes on from, and the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.depots.results import CHECKPOINT, WEIGHTS
from poisons import Store
from poisons.shelf import ShelvedCheckpoint
from trainers.checkpoint import write_tensors


def trial_checkpoint(store: Store, key: str, *, every: float) -> ShelvedCheckpoint:
    """Where a trial goes on after a kill, on any machine that shares the store."""
    folder = store.root / "trials" / key
    folder.mkdir(parents=True, exist_ok=True)
    name = f"trials/{key}/{CHECKPOINT}"
    return ShelvedCheckpoint(folder / CHECKPOINT, every=every, shelf=store.shelf, name=name)


def keep_weights(store: Store, key: str, model: nn.Module) -> None:
    """Keep the weights of a trained network in the store. Raises OSError."""
    file = store.root / "trials" / key / WEIGHTS
    write_tensors(file, model.state_dict())
    if store.shelf is not None:
        store.shelf.upload(file, f"trials/{key}/{WEIGHTS}")
        file.unlink()  # a node's copy does not grow with every trial


def kept_weights(store: Store, key: str) -> dict[str, Tensor] | None:
    """The weights of a trained network that the store has, on the host; None if it has none, or they are
    damaged. Raises OSError if it does not answer."""
    file = store.root / "trials" / key / WEIGHTS
    copy = file.with_name(".weights.download.tmp")
    try:
        if store.shelf is not None and store.shelf.download(f"trials/{key}/{WEIGHTS}", copy):
            file = copy
        return dict(torch.load(file, map_location="cpu", weights_only=True))
    except FileNotFoundError:
        return None
    except (OSError, MemoryError):
        raise
    except Exception:  # noqa: BLE001  (a damaged file raises nearly anything)
        return None
    finally:
        copy.unlink(missing_ok=True)
