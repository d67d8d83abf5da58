"""TrainSpec: how a network is trained, and in which arithmetic."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator
from torch import Tensor

from trainers.architectures.resnet import ResNet18
from trainers.augmentations.flip_crop import FlipCrop
from trainers.defenses.erm import Erm
from trainers.families import Architecture, Augmentation, Defense, Optimizer, Schedule
from trainers.numerical_platform import cpu_isa, has_bfloat16
from trainers.optimizers.sgd import Sgd
from trainers.schedules.multi_step import MultiStep
from trainers.spec import Spec, changed

Precision = Literal["float32", "bfloat16"]


class TrainSpec(Spec):
    """How a network is trained. The defaults are the One-Pixel Shortcut paper's recipe for CIFAR-10 (Wu et
    al., ICLR 2023); an architecture whose paper trains it differently has its own.

    `precision: auto` is bfloat16 arithmetic with float32 weights if the device has it natively and computes
    every layer of the network correctly in it, else float32. `ema` is the decay per step of an average of the
    weights, which is then evaluated in their place. `execution: compiled` is torch.compile, which pays off in
    long trainings of networks with much work between their convolutions; `cuda_graphs` is its mode for small
    networks on a GPU.
    """

    version: ClassVar[int] = 2  # 2: `precision` is `auto` by default
    architecture: Architecture = ResNet18()
    augmentations: tuple[Augmentation, ...] = (FlipCrop(),)
    defense: Defense = Erm()
    optimizer: Optimizer = Sgd()
    schedule: Schedule = MultiStep()
    epochs: PositiveInt = 200
    batch_size: PositiveInt = 128
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: PositiveFloat | None = None  # of the gradient of all weights together
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    execution: Literal["eager", "compiled", "cuda_graphs"] = "eager"

    @model_validator(mode="before")
    @classmethod
    def _with_recipe(cls, value: Any) -> Any:
        """Missing fields default to the architecture's recipe, if it has one; fields given without a `kind`
        change it."""
        if not isinstance(value, dict) or "architecture" not in value:
            return value
        network = changed(value["architecture"], cls().architecture, "architecture")
        try:
            architecture = Architecture.model_validate(network)
        except ValidationError:
            return value  # validation of the field reports it
        if not (recipe := architecture.recipe()):
            return value
        usual = dict(cls.model_validate(recipe))
        return recipe | {name: changed(item, usual.get(name), name) for name, item in value.items()}

    @property
    def before_attack(self) -> int:
        """How many of the augmentations come before the defense perturbs the batch: all up to the first
        that mixes."""
        return next((i for i, one in enumerate(self.augmentations) if one.mixes), len(self.augmentations))

    def arithmetic(self, device: torch.device) -> Precision:
        """The arithmetic that `precision` requests on `device`; precision.py decides whether it is used."""
        if self.precision != "auto":
            return self.precision
        return "bfloat16" if native_bfloat16(device) else "float32"

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """A context with bfloat16 arithmetic and float32 weights, if `arithmetic` says so."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.arithmetic(device) == "bfloat16")

    def targets(self, labels: Tensor, num_classes: int) -> Tensor:
        """Class probabilities N,K for int64 labels N, smoothed."""
        # one_hot inspects the labels, which makes the host wait
        y = (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()
        return y * (1 - self.label_smoothing) + self.label_smoothing / num_classes


def repeatable() -> AbstractContextManager[None]:
    """cuDNN's deterministic kernels and no TF32, so that a GPU repeats its results."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def native_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices natively, not in a slower emulation, and is allowed to
    (ONEDNN_MAX_CPU_ISA)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and has_bfloat16(cpu_isa())
