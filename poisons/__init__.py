"""Layer 2: poisons and the data sets they make. May use trainers; knows no ray, no mlflow, no typer.

Importing the package imports nothing else: each name is loaded on first use.
"""

from typing import TYPE_CHECKING

from trainers.lazy import load_from

if TYPE_CHECKING:
    from poisons.base import CraftContext, Perturbation, Poison
    from poisons.data_spec import DataSpec
    from poisons.store.store import Store

MODULES = {
    "DataSpec": "data_spec",
    "Perturbation": "base",
    "Poison": "base",
    "Store": "store.store",
    "CraftContext": "base",
}
__all__ = ["CraftContext", "DataSpec", "Perturbation", "Poison", "Store"]
__getattr__ = load_from(__name__, MODULES)
