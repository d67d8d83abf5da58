"""TrainSpec: how a network is trained, and in which arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, field_validator, model_validator
from torch import Tensor, nn

from trainers.architectures.resnet import ResNet18
from trainers.augmentations.flip_crop import FlipCrop
from trainers.defenses.erm import Erm
from trainers.families import Architecture, Augmentation, Defense, Optimizer, Schedule
from trainers.images import Extent
from trainers.meta import Shape, check_buildable
from trainers.numerical_platform import cpu_isa, has_bfloat16
from trainers.optimizers.sgd import Sgd
from trainers.schedules.multi_step import MultiStep
from trainers.spec import Spec, changed
from trainers.start import Start

Precision = Literal["float32", "bfloat16"]


class TrainSpec(Spec):
    """How a network is trained. The defaults are the One-Pixel Shortcut paper's recipe for CIFAR-10 (Wu et
    al., ICLR 2023); an architecture whose paper trains it differently has its own."""

    version: ClassVar[int] = 2  # 2: `precision` is `auto` by default
    one_or_many: ClassVar[tuple[str, ...]] = ("defense",)
    architecture: Architecture = ResNet18()
    """The network; its recipe, if it has one, gives the defaults of the other fields here."""
    augmentations: tuple[Augmentation, ...] = (FlipCrop(),)
    """Random changes to each batch, applied in this order on the device."""
    start: Start | None = None
    """Initial weights, and the layers that are trained; null draws them from the seed and trains all."""
    defense: Defense = Erm()
    """What the trainer does against poisons, or a list of defenses in order; erm is plain training."""
    optimizer: Optimizer = Sgd()
    """How gradients update the weights."""
    schedule: Schedule = MultiStep()
    """How the learning rate changes over the training."""
    epochs: PositiveInt = 200
    """Passes over the training images."""
    batch_size: PositiveInt = 128
    """Images of one step; the last batch of an epoch may be smaller."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread evenly over all classes."""
    clip_norm: PositiveFloat | None = None
    """Largest L2 norm of the gradient of all weights together; null does not clip."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of an average of the weights, evaluated in their place; null keeps no average."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic on float32 weights; auto is bfloat16 where the device has it natively and correctly."""
    execution: Literal["eager", "compiled", "cuda_graphs"] = "eager"
    """compiled is torch.compile, for long trainings; cuda_graphs its mode for small networks on a GPU."""

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

    @field_validator("defense", mode="before")
    @classmethod
    def _a_list_is_a_chain(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple):
            return value
        if not value:
            raise ValueError("an empty list: write erm for plain training")
        return value[0] if len(value) == 1 else {"kind": "chain", "parts": value}

    @model_validator(mode="after")
    def _augmentations_go_with_the_defense(self) -> TrainSpec:
        self.defense.check_augmentations(self.augmentations)
        return self

    @model_validator(mode="after")
    def _start_fits_the_architecture(self) -> TrainSpec:
        if self.start is not None:
            self.start.check(self.architecture)
        return self

    def check(self, images: Extent) -> None:
        """InputError if it cannot train on images of this extent: there is no such network for them, or an
        augmentation or the defense does not take them."""
        check_buildable(self.architecture, images)
        for augment in self.augmentations:
            augment.check(images)
        self.defense.check(images)

    def pinned(self) -> TrainSpec:
        """A copy whose start names its weights by their content, which gives it a key. InputError if they are
        not there."""
        return self if self.start is None else self.model_copy(update={"start": self.start.pinned()})

    @property
    def trains_all(self) -> bool:
        """Whether all layers are trained, not only the last one."""
        return self.start is None or self.start.layers == "all"

    def network(self, *, num_classes: int, shape: Shape, seed: int) -> nn.Module:
        """The network, its weights drawn from `seed`, as its start expects images to be normalised."""
        model = self.architecture.network(num_classes=num_classes, shape=shape, seed=seed)
        if self.start is not None and (pixels := self.start.pixels(self.architecture)) is not None:
            alike = len(pixels[0]) != shape[0]  # other channels than the weights know: all get the mean
            model.normalise_by(*((sum(v) / len(v),) * shape[0] if alike else v for v in pixels))
        return model

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


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Within the block, gradients of weights, which are sums over a batch, do not depend on the number of CPU
    cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def native_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices natively, not in a slower emulation, and is allowed to
    (ONEDNN_MAX_CPU_ISA)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and has_bfloat16(cpu_isa())
