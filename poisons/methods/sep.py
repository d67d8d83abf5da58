"""Self-ensemble protection, SEP (Chen et al., ICLR 2023): adversarial noise against all checkpoints of one
training."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poisons.methods.descent import Batch
from poisons.methods.ensemble import EnsembleNoise
from poisons.methods.fixed_network import SMOKE
from poisons.perturbations.delta import NoiseEps
from trainers.features import class_means, features, head_of
from trainers.images import Images
from trainers.spec import InputError, Step


class Sep(EnsembleNoise, kind="sep", version=2):
    """Adversarial noise against checkpoints of one training of clean images: towards the mean features of
    another class (SEP-FA), with variance-reduced gradients (SEP-FA-VR), or towards its label (SEP).

    With variance reduction each step first takes one inner step per checkpoint, in random order with
    replacement. Unlike the released code, an inner step aims at the mean features of its own checkpoint, not
    of the last, and the surrogate's training has no warm-up.
    """

    published: ClassVar[str] = "ICLR 2023"
    smoke: ClassVar[dict[str, Any]] = SMOKE | {"checkpoints": 2, "augmentations": []}
    eps: NoiseEps = Fraction(2, 255)
    """Largest change of a value (paper: ε), in units of the pixel range."""
    step: Step | None = Fraction(1, 255)
    """Length of a step, above 0, in units of the pixel range; null is half of eps."""
    towards: Literal["features", "label"] = "features"
    """What of the other class the noise aims at: its mean features, or its label."""
    variance_reduced: bool = True
    """Whether a step follows inner steps on single checkpoints (SVRG), as published for features."""
    usual_step: ClassVar[Fraction] = Fraction(1, 2)

    def head(self, clean: Images) -> str | None:
        if self.towards == "label":
            return None
        network = self.surrogate.network(num_classes=clean.num_classes, shape=clean.shape, seed=0)
        if (name := head_of(network, clean)) is None:
            raise InputError(
                "sep: the surrogate does not end with a linear layer, whose inputs are the features: write "
                "towards: label, or choose an architecture such as resnet18"
            )
        return name

    def check_images(self, clean: Images) -> None:
        super().check_images(clean)
        counts = torch.bincount(clean.y, minlength=clean.num_classes)
        wanted = self.aim(clean.y, clean.num_classes).unique()
        if self.towards == "features" and (empty := wanted[counts[wanted] == 0]).numel():
            raise InputError(f"sep: class {int(empty[0])}, at which others aim, has no images")

    def aims(self, models: Sequence[nn.Module], head: str | None, clean: Images) -> tuple[Tensor | None, ...]:
        if head is None:
            return super().aims(models, head, clean)
        return tuple(means_of(model, head, clean) for model in models)

    def objective(self, out: Tensor, labels: Tensor, aim: Tensor | None) -> Tensor:
        if aim is None:
            return F.cross_entropy(out, self.aim(labels, out.shape[1]), reduction="sum")
        return (out - aim[self.aim(labels, len(aim))]).square().mean(1).sum()

    def direction(self, batch: Batch, z: Tensor) -> tuple[Tensor, Tensor]:
        """With variance reduction: the sum of the inner steps' gradients, each corrected by how far that of
        its checkpoint was from the mean where the step begins."""
        if not self.variance_reduced:
            return super().direction(batch, z)
        first = [batch.gradient(number, z) for number in range(batch.networks)]
        mean = sum(grad for grad, _ in first) / batch.networks
        total, inner = torch.zeros_like(z), z
        for number in torch.randint(batch.networks, (batch.networks,), generator=batch.host).tolist():
            grad, _ = batch.gradient(number, inner)
            total = total + grad - (first[number][0] - mean)
            inner = batch.move(inner, total)
        return total, torch.stack([value for _, value in first]).mean()

    def gradients(self) -> int:
        return self.networks * (2 if self.variance_reduced else 1)


def means_of(model: nn.Module, head: str, clean: Images) -> Tensor:
    """The mean features K,D of each class, the inputs of the layer `head`; NaN for a class without images."""
    device = next(model.parameters()).device
    layer = model.get_submodule(head)
    if not isinstance(layer, nn.Linear):
        raise TypeError(f"{head} is not a linear layer")
    return class_means(features(model, layer, clean, device), clean.y, clean.num_classes)
