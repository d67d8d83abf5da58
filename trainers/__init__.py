"""Layer 1: one device, one classifier. Knows images and labels, never a poison; needs torch alone."""

from trainers import architectures, augmentations, defenses, optimizers, schedules
from trainers.attacks import Budget
from trainers.images import Images
from trainers.loop import TrainSpec, fit
from trainers.spec import InputError, Plugin, Spec

__all__ = ["Budget", "Images", "InputError", "Plugin", "Spec", "TrainSpec", "fit"]
_members = (architectures, augmentations, defenses, optimizers, schedules)
