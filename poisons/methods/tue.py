"""Transferable unlearnable examples, TUE (Ren, Xu, Wan, Ma, Sun, Tang; ICLR 2023): noise whose classes are
linearly separable, against supervised and unsupervised training."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from poisons.base import CraftContext, Poison
from poisons.methods.em_noise import begin
from poisons.perturbations.delta import Delta, NoiseEps, whole_levels
from poisons.rng import rng
from trainers.checkpoint import Checkpoint
from trainers.feed import place
from trainers.flops import Work
from trainers.images import Extent, Images, to_float
from trainers.meta import Shape
from trainers.recipe import one_thread, repeatable
from trainers.spec import InputError, Step
from trainers.stored import DamagedError
from trainers.tensor_files import check_like

OFFSET = 1e-5  # of both sides of a ratio, as released
WRITES, KERNELS = 9, 44  # in a step: values written for each one of the noise, and kernels run


class Tue(Poison, kind="tue"):
    """Noise of each image that descends the classwise separability discriminant (CSD): classes of noise are
    narrow, and their means far apart. The images matter only where their noise is clipped.

    No network is trained. The release trains a contrastive one, but its SimCLR and SimSiam commands give the
    contrastive term the weight 0 in the loss of the noise. An epoch there has four or five passes over the
    images, here one; on CIFAR-10 the noise no longer changes after ten passes.
    """

    bound: ClassVar[str] = "Linf eps"
    published: ClassVar[str] = "ICLR 2023"
    wants_gpu: ClassVar[bool] = True
    smoke: ClassVar[dict[str, Any]] = {"steps": 3, "epochs": 2, "batch_size": 32}
    eps: NoiseEps = Fraction(8, 255)
    """Largest change of a value (paper: ε), in units of the pixel range."""
    step: Step | None = None
    """Length of a step, above 0, in units of the pixel range; null is eps/10."""
    steps: PositiveInt = 20
    """Steps of the noise of each batch in each epoch."""
    epochs: PositiveInt = 40
    """Passes over all images, in random order."""
    batch_size: Annotated[int, Field(ge=2)] = 512
    """Images of one step, whose classes are compared."""

    @property
    def transfers(self) -> bool:
        return False

    def work(self, images: int, *, shape: Shape, num_classes: int) -> Work:
        size, batches = math.prod(shape), math.ceil(images / self.batch_size)
        flops = 2.0 * size * num_classes * (images + batches * num_classes)
        step = Work(flops, values=WRITES * images * size, kernels=KERNELS * batches)
        return step * (self.epochs * (self.steps + 1))

    def check(self, clean: Extent) -> None:
        if not clean.images:
            raise InputError("tue: noise is crafted from images, and there are none")

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Delta:
        self.check(clean.extent)
        device, checkpoint, owner = context.device, context.checkpoint, f"tue {self.key}, seed {seed}"
        value = 0.0
        with repeatable(), one_thread(device):
            images = place(clean, device)
            start = rng(seed, "tue noise").initial_seed()
            noise = begin((len(clean), *clean.shape), float(self.eps), device, random=True, seed=start)
            first = 0 if checkpoint is None else self._resume(noise, checkpoint, owner)
            for epoch in range(first, self.epochs):
                order = torch.randperm(len(clean), generator=rng(seed, f"tue order {epoch}"))
                value = self._descend(images, noise, order, device)
                context.report({"epoch": epoch + 1, "discriminant": round(value, 6)})
                if checkpoint is not None and epoch + 1 < self.epochs and checkpoint.due():
                    checkpoint.save({"epoch": epoch + 1, "noise": noise}, owner=owner)
            levels = whole_levels(noise, "signed", self.eps)
        return Delta(levels, "image", {"discriminant": round(value, 6)})

    def _resume(self, noise: Tensor, checkpoint: Checkpoint, owner: str) -> int:
        """The number of epochs done by an earlier attempt, whose noise replaces `noise`; 0 without one."""
        if (state := checkpoint.load(owner=owner)) is None:
            return 0
        epoch = state.get("epoch")
        try:
            check_like(state.get("noise"), noise, "noise")
            if type(epoch) is not int or not 0 < epoch < self.epochs:
                raise DamagedError(f"epoch: expected 1..{self.epochs - 1}")
        except DamagedError as damage:
            checkpoint.reject(f"was damaged ({damage})")
            return 0
        noise.copy_(state["noise"])
        return epoch

    def _descend(self, images: Images, noise: Tensor, order: Tensor, device: torch.device) -> float:
        """Update `noise` in one epoch; returns the mean discriminant of the batches after their steps."""
        step = float(self.eps / 10 if self.step is None else self.step)
        total = torch.zeros((), dtype=torch.float64, device=device)
        for rows in order.split(self.batch_size):
            # numbered densely, since a batch may lack classes
            classes, labels = images.y[rows.to(images.y.device)].unique(return_inverse=True)
            labels, at = labels.to(device), rows.to(noise.device)
            x = to_float(images.x[rows.to(images.x.device)].to(device)).flatten(1)
            moved = noise[at].to(device).flatten(1)
            for _ in range(self.steps):
                _, gradient = discriminant(moved, labels, len(classes))
                z = (x + moved).clamp_(0, 1).sub_((step * gradient.sign())[labels])
                moved = z.sub_(x).clamp_(-float(self.eps), float(self.eps))
            total += len(rows) * discriminant(moved, labels, len(classes))[0]
            noise[at] = moved.view(len(rows), *images.shape).to(noise.device)
        return total.item() / len(images)


def discriminant(noise: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The classwise separability discriminant of `noise` N,D, and its gradient with respect to the mean of
    each class, K,D. Every class has an image; both are 0 if there is only one class.

    It is the mean over ordered pairs of classes of (s_i + s_j) / d_ij: s is the mean distance of a class from
    its mean, and d the distance of two means. As released, no gradient passes through s. The gradient for an
    image is that for the mean of its class, divided by the size of the class.
    """
    shares = F.one_hot(labels, num_classes).to(noise.dtype)
    shares /= shares.sum(0)
    means = shares.mT @ noise
    spreads = torch.linalg.vector_norm(noise - means[labels], dim=1) @ shares
    distances = torch.cdist(means, means)
    ratios = (spreads[:, None] + spreads + OFFSET) / (distances + OFFSET)
    ratios = ratios.fill_diagonal_(0) / max(1, num_classes * (num_classes - 1))
    # means that coincide do not move each other
    push = 2 * ratios / (distances + OFFSET) * torch.where(distances > 0, 1 / distances, 0)
    return ratios.sum(), push @ means - push.sum(1, keepdim=True) * means
