"""Layer 1: one device, one classifier. Knows images and labels, never a poison; needs torch alone.

Importing the package imports nothing else: each name is loaded on first use.
"""

from typing import TYPE_CHECKING

from trainers.lazy import load_from

if TYPE_CHECKING:
    from trainers.errors import InputError
    from trainers.evaluate import EvaluationSpec
    from trainers.images import Images
    from trainers.loop import fit
    from trainers.pgd import Budget
    from trainers.recipe import TrainSpec
    from trainers.spec import Plugin, Spec

MODULES = {
    "Budget": "pgd",
    "EvaluationSpec": "evaluate",
    "Images": "images",
    "InputError": "errors",
    "Plugin": "spec",
    "Spec": "spec",
    "TrainSpec": "recipe",
    "fit": "loop",
}
__all__ = ["Budget", "EvaluationSpec", "Images", "InputError", "Plugin", "Spec", "TrainSpec", "fit"]
__getattr__ = load_from(__name__, MODULES)
