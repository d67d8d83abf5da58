"""Layer 2: poisons and the data sets they make. May use trainers; knows no ray, no mlflow, no typer.

Importing the package imports nothing else: each of its names is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from trainers.lazy import load_from

if TYPE_CHECKING:
    from poisons.base import Perturbation, Poison, Workshop
    from poisons.data_spec import DataSpec
    from poisons.store.store import Store

MODULES = {
    "DataSpec": "data_spec",
    "Perturbation": "base",
    "Poison": "base",
    "Store": "store.store",
    "Workshop": "base",
}
__all__ = ["DataSpec", "Perturbation", "Poison", "Store", "Workshop"]
__getattr__ = load_from(__name__, MODULES)
