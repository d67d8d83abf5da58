"""Random numbers of poisons: a stream for each seed and purpose, separate from those of trainings."""

from __future__ import annotations

import torch

from trainers.loop import generator


def rng(seed: int, purpose: str) -> torch.Generator:
    """A generator on the host. Equal seeds and purposes give equal numbers, whatever else is drawn."""
    return generator(torch.device("cpu"), seed, 0, *purpose.encode())
