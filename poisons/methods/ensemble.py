"""Noise against the checkpoints of one training, towards another class. The base of self-ensemble and
dual-branch noise."""

from __future__ import annotations

from typing import ClassVar

from pydantic import PositiveInt, model_validator
from torch import Tensor

from poisons.methods.em_noise import Differentiable
from poisons.methods.fixed_network import FixedNetworkNoise
from trainers.images import Extent
from trainers.recipe import TrainSpec
from trainers.schedules.multi_step import MultiStep
from trainers.spec import InputError


class EnsembleNoise(FixedNetworkNoise):
    """Noise that starts at zero and descends the mean objective of several networks. Unlike the released one,
    the surrogate's training has no warm-up."""

    from_zero: ClassVar[bool] = True
    surrogate: TrainSpec = TrainSpec(epochs=120, schedule=MultiStep(milestones=(0.625, 0.75)))
    """Network that is trained on the clean images, once for all poisons that name it and its checkpoints."""
    checkpoints: PositiveInt = 15
    """Evenly spaced epochs of the surrogate's training whose networks are used."""
    steps: PositiveInt = 30
    """Steps on each image."""
    augmentations: Differentiable = ()
    """Drawn anew at each step; gradients must pass, and images not be mixed."""
    offset: PositiveInt = 5
    """How many classes after its own one an image aims."""

    @model_validator(mode="after")
    def _as_many_epochs(self) -> EnsembleNoise:
        if self.checkpoints > self.surrogate.epochs:
            raise ValueError(
                f"{self.checkpoints} checkpoints of a surrogate that is trained for {self.surrogate.epochs} "
                "epochs: raise surrogate.epochs, or lower checkpoints"
            )
        return self

    @property
    def networks(self) -> int:
        return self.checkpoints

    def check(self, clean: Extent) -> None:
        super().check(clean)
        if self.offset % clean.num_classes == 0:
            raise InputError(
                f"{self.kind}: an offset of {self.offset} among {clean.num_classes} classes is its own: "
                f"write offset: {max(1, clean.num_classes // 2)}"
            )

    def aim(self, labels: Tensor, num_classes: int) -> Tensor:
        """The classes at which images of these classes aim."""
        return (labels + self.offset) % num_classes
