"""The families that plug into the training loop: architectures, augmentations, defenses, optimizers and
schedules; and the attacks of an evaluation."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from trainers.images import Extent, Images
from trainers.pgd import Budget
from trainers.spec import InputError, Plugin

if TYPE_CHECKING:
    from trainers.restoration import Restoration

Metrics = dict[str, float]
Report = Callable[[Metrics], None]


@dataclass(frozen=True)
class Passes:
    """How often one batch passes through the network: `forward`, `backward` to weights and activations, and
    `inputs`, backward to the pixels with frozen weights. Cost estimates are based on it."""

    forward: float = 0
    backward: float = 0
    inputs: float = 0

    @property
    def relative(self) -> float:
        """The operations as a multiple of those of plain training, if a backward pass takes as many as two
        forward ones."""
        return (self.forward + 2 * self.backward + self.inputs) / 3


class Normalised(nn.Module):
    """Maps images in [0, 1] to about zero mean and unit scale, the same for every data set unless pretrained
    weights expect otherwise, then runs `net`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.mean: Tensor | float = 0.5
        self.scale: Tensor | float = 4.0

    def normalise_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Normalise each channel by its own mean and standard deviation."""
        del self.mean, self.scale
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) * self.scale)


class Architecture(Plugin, family="architecture", package="trainers.architectures"):
    """A network: float images N,C,H,W in [0, 1] in, logits N,K out. Normalisation is part of the network."""

    memorises: ClassVar[bool] = True  # large enough to memorise a training set such as CIFAR-10

    @property
    def available(self) -> bool:
        """Whether it can be built on this machine, which may lack its library."""
        return True

    def recipe(self) -> dict[str, Any]:
        """How its paper trains it: the fields of TrainSpec that differ from the defaults, as plain data."""
        return {}

    @abstractmethod
    def build(self, *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """The bare network for images of `shape` (C, H, W); weights are drawn from torch's global
        generator."""

    def network(self, *, num_classes: int, shape: tuple[int, int, int], seed: int) -> Normalised:
        """The network with its normalisation, its weights drawn from `seed`; no global state is changed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return Normalised(self.build(num_classes=num_classes, shape=shape))


class Augmentation(Plugin, family="augmentation", package="trainers.augmentations"):
    """Maps a batch to a batch, on its device, every image with its own draw from `gen`."""

    mixes: ClassVar[bool] = (
        False  # whether it mixes images with each other: a defense crafts its attack before that
    )
    coloured: ClassVar[bool] = False  # whether it is made for grey or RGB images only

    def check(self, images: Extent) -> None:
        """InputError if images of this extent cannot be augmented by it. Called before a training."""
        if self.coloured:
            check_grey_or_rgb(self.kind, images)

    @abstractmethod
    def __call__(self, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        """`x` float N,C,H,W in [0, 1] and `y` class probabilities N,K; shapes and label mass are kept."""


class Defense(Plugin, family="defense", package="trainers.defenses"):
    """A defense of a trainer who does not know the poison: prepare the training images once, perturb each
    batch, change the loss, or purify inputs at test time."""

    needs: ClassVar[str] = "no clean images"  # its threat model: what it takes beside the training images

    @property
    def memorises(self) -> bool:
        """Whether training fits every training image in the end."""
        return False

    def check(self, images: Extent) -> None:
        """InputError if images of this extent cannot be trained on with it. Called before a training."""

    def check_augmentations(self, augmentations: Sequence[Augmentation]) -> None:
        """ValueError if it does not go with these augmentations of the same training."""

    @property
    def passes(self) -> Passes:
        """The passes of one training step, including its attack; by default a plain step."""
        return Passes(forward=1, backward=1)

    @property
    def restoration(self) -> Restoration | None:
        """The part of it that trains a network to restore the training images, before everything else; None
        if it has no such part. See restoration.py."""
        return None

    @property
    def whole_levels(self) -> bool:
        """Whether prepared images are uint8; else they are FloatImages."""
        return True

    def prepare(
        self, images: Images, *, device: torch.device, gen: torch.Generator, report: Report
    ) -> Images:
        """The images to train on in place of `images` (uint8), with equal labels and shape; called once. All
        randomness comes from `gen`, which is on the host, so that it does not depend on `device`; long work
        reports its progress as rows of metrics."""
        return images

    def purify(self, x: Tensor) -> Tensor:
        """The inputs `x` to classify at test time and under attack, float N,C,H,W in [0, 1], cleaned."""
        return x

    def deployed(self, model: nn.Module) -> nn.Module:
        """A trained `model` as it is used at test time: it classifies purified inputs."""
        return model if type(self).purify is Defense.purify else Purified(self, model)

    def at(self, progress: float) -> Defense:
        """The defense of an epoch, in `perturb` and `loss`; `progress` is the share of the epochs that are
        done with it, in (0, 1]."""
        return self

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> Tensor:
        """The batch to train on in place of `x`. Called before the first augmentation that mixes images
        (mixup, cutmix), so an attack is crafted on unmixed images, as published."""
        return x

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, gen: torch.Generator) -> tuple[Tensor, Tensor]:
        """The loss to minimise and the logits N,K it was computed from, for one augmented batch."""
        logits = model(x)
        return cross_entropy(logits, y), logits


class Purified(nn.Module):
    """Classifies what a defense purifies. Not part of the training."""

    def __init__(self, defense: Defense, net: nn.Module) -> None:
        super().__init__()
        self.defense, self.net = defense, net
        self.training = net.training

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.defense.purify(x))


class Attack(Plugin, family="attack", package="trainers.attacks"):
    """An attack within `budget` on a trained network, run by an evaluation."""

    budget: Budget = Budget()
    """The ball around each image in which the attack stays (paper: ε)."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As in its metric `test/<name>_acc`: `pgd20_Linf_8_255`."""

    @property
    @abstractmethod
    def passes(self) -> Passes:
        """The passes of crafting for one batch."""

    @property
    def strength(self) -> int:
        """Orders attacks of one budget. A stronger one that leaves more accuracy is suspicious."""
        return 1

    def check_ready(self) -> None:
        """InputError if this machine lacks what the attack needs. Called before a training."""

    def check(self, test: Extent) -> None:
        """InputError if it cannot attack images of this extent. Called before a training."""
        if test.num_classes < 2:
            raise InputError(
                f"{self.name}: an attack changes the predicted class, and these images have only "
                f"{test.num_classes}: leave the attack out"
            )
        values = math.prod(test.shape)
        if self.budget.norm == "L2" and self.budget.eps**2 > values:
            size = "x".join(map(str, test.shape))
            raise InputError(
                f"{self.name}: no two {size} images in [0, 1] are further apart than "
                f"{math.sqrt(values):.4g}, so an L2 budget of {self.budget.eps} allows any image: "
                "write a smaller eps, such as 1/2"
            )

    def left_out(self, test: Extent) -> Mapping[str, str]:
        """The members of an ensemble that cannot attack such images, each with what it needs. The attack runs
        without them."""
        return {}

    @abstractmethod
    def craft(self, model: nn.Module, x: Tensor, labels: Tensor, gen: torch.Generator) -> Tensor:
        """`x_adv` in [0, 1] within the budget of `x` float N,C,H,W, for a model in eval mode; labels int64
        N."""


class Optimizer(Plugin, family="optimizer", package="trainers.optimizers"):
    """How gradients update weights."""

    lr: Annotated[float, Field(gt=0)] = 0.1
    """Full learning rate, which the schedule scales."""

    @abstractmethod
    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """A torch optimizer over the model's parameters."""


class Schedule(Plugin, family="schedule", package="trainers.schedules"):
    """How the learning rate changes over a training."""

    @abstractmethod
    def factor(self, progress: float) -> float:
        """The factor on the full learning rate at `progress`, the share of the training done, in (0, 1)."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy in nats against class probabilities `y` N,K, computed in float32."""
    return F.cross_entropy(logits.float(), y)


def check_grey_or_rgb(kind: str, images: Extent) -> None:
    """InputError if the images are neither grey nor RGB; `kind` is made for those."""
    if images.shape[0] not in (1, 3):
        raise InputError(
            f"{kind} is for grey or RGB images; these have {images.shape[0]} channels: leave it out"
        )
