"""Layer 1: one device, one classifier. Knows images and labels, never a poison; needs torch alone."""

from trainers import architectures, attackers, augmentations, defenses, optimizers, probes, schedules
from trainers.attacks import Budget
from trainers.evaluate import EvaluationSpec, evaluate
from trainers.images import Images
from trainers.loop import fit
from trainers.recipe import TrainSpec
from trainers.spec import InputError, Plugin, Spec

__all__ = [
    "Budget",
    "EvaluationSpec",
    "Images",
    "InputError",
    "Plugin",
    "Spec",
    "TrainSpec",
    "evaluate",
    "fit",
]
_members = (architectures, attackers, augmentations, defenses, optimizers, probes, schedules)
