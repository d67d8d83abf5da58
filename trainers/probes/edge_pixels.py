"""Edge pixel detection (Li, Wang and others; AAAI 2025, arXiv 2311.18403): whether the edges of images give a
convolution-based poison away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from trainers.flops import Work
from trainers.images import Images, to_float
from trainers.probe import Examined, Finding, Probe, Subject
from trainers.probe_view import PERCENT, ProbeView
from trainers.softmax_regression import regression_work, softmax_regression
from trainers.spec import InputError

ROWS = 4096  # images converted to float at a time
L2, ITERATIONS = 1e-4, 200  # of the fit


class EdgePixels(Probe, kind="edge_pixels"):
    """How well a linear classifier tells the training images from those of each set by their edges alone.

    Its features are the sums of the pixels along each of the four edges, by channel, standardised; convolving
    an image with padding darkens them. The metric `<set>_acc` is its accuracy on held-out images, half of
    which are training images, so that 50 % is chance. It does not use the network. The paper
    separates convolution-based from bounded poisons, with a linear SVM in place of logistic regression.
    """

    limit: PositiveInt | None = 10_000
    """Size of a class-balanced subset of the training images and of each set; null takes all."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the images that is held out of the fit."""

    @property
    def per_set(self) -> tuple[str, ...]:
        return ("acc",)

    def view(self, sets: Sequence[str]) -> ProbeView:
        return ProbeView(
            says="How well a linear classifier tells the training images from others by the pixels of their "
            "edges. 50 % is chance.",
            units=dict.fromkeys((f"{name}_acc" for name in sets), PERCENT),
        )

    def work(self, examined: Examined) -> Work:
        size, mine = 4 * examined.train.shape[0], examined.train.at_most(self.limit)
        rows = (2 * min(mine, images.at_most(self.limit)) for images in examined.sets.values())
        return sum((regression_work(number, size, 2, ITERATIONS) for number in rows), Work())

    def check(self, names: Iterable[str]) -> None:
        if not tuple(names):
            raise InputError(
                f"the probe {self.kind!r} compares the training images with sets, and was given none: write "
                "sets: {clean: {poison: clean}}"
            )

    def run(self, subject: Subject) -> Finding:
        mine = edges(subject.train.subset(self.limit))
        others = {name: edges(images.subset(self.limit)) for name, images in subject.sets.items()}
        found = {f"{name}_acc": self._separated(mine, theirs) for name, theirs in others.items()}
        return Finding(found)

    def _separated(self, a: Tensor, b: Tensor) -> float:
        """The held-out accuracy of telling `a` from `b`, of which equally many rows are used."""
        n = min(len(a), len(b))
        if n < 2:
            raise InputError(f"the probe {self.kind!r} needs two images or more of each set, found {n}")
        gen = torch.Generator().manual_seed(0)
        x = torch.stack([part[torch.randperm(len(part), generator=gen)[:n]] for part in (a, b)])
        x = (x - x.mean((0, 1))) / x.std((0, 1)).clamp(min=1e-9)
        fitted = max(1, n - max(1, round(self.share * n)))
        labels = torch.arange(2).repeat_interleave(fitted)
        weight, bias = softmax_regression(
            x[:, :fitted].flatten(0, 1), labels, 2, l2=L2, iterations=ITERATIONS
        )
        right = (x[:, fitted:] @ weight.mT + bias).argmax(2) == torch.arange(2)[:, None]
        return right.double().mean().item()


def edges(images: Images) -> Tensor:
    """The sums of the pixels along the upper, lower, left and right edge of each channel: float64 N,4C."""
    parts = []
    for some in images.chunks(ROWS):
        x = to_float(some.x.cpu()).double()
        sides = (x[:, :, 0], x[:, :, -1], x[..., 0], x[..., -1])
        parts.append(torch.cat([side.sum(2) for side in sides], 1))
    return torch.cat(parts)
