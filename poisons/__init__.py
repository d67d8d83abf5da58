"""Layer 2: poisons and the data sets they make. May use trainers; knows no ray, no mlflow, no typer."""

from trainers.spec import import_members

import_members(__name__, __path__)

from poisons.base import Perturbation, Poison, Workshop  # noqa: E402  (members first, so every kind is known)
from poisons.data_spec import DataSpec  # noqa: E402
from poisons.store import Store  # noqa: E402

__all__ = ["DataSpec", "Perturbation", "Poison", "Store", "Workshop"]
