"""Adversarial inputs: budgets and projected gradient descent (Madry et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

import torch
from pydantic import field_validator, model_validator
from torch import Tensor, nn

from trainers.spec import Eps, Spec

Norm = Literal["Linf", "L2"]


class Budget(Spec):
    """A ball around each image, with pixels in [0, 1]."""

    norm: Norm = "Linf"
    """Norm that bounds the change: Linf, the largest of any value, or L2 over all C·H·W values."""
    eps: Eps = Fraction(8, 255)
    """Radius (paper: ε), in units of the pixel range; above 0, and at most 1 in Linf."""

    @model_validator(mode="before")
    @classmethod
    def _radius_and_norm(cls, value: Any) -> Any:
        if isinstance(value, str | int | float | Fraction):
            raise ValueError(
                f"a budget is a radius and its norm, found {value!r}; "
                "write {eps: 8/255}, in Linf, or {norm: L2, eps: 1/2}"
            )
        return value

    @field_validator("eps")
    @classmethod
    def _positive(cls, eps: Fraction) -> Fraction:
        if eps <= 0:
            raise ValueError("a budget must be above 0; leave the attack out instead")
        return eps

    @model_validator(mode="after")
    def _in_range(self) -> Budget:
        if self.norm == "Linf" and self.eps > 1:
            raise ValueError(
                f"an Linf budget is at most 1, the whole pixel range; found {self.eps}; write 8/255"
            )
        return self

    def project(self, delta: Tensor, x: Tensor) -> Tensor:
        """The projection of `delta` onto the ball, then changed so that `x + delta` stays in [0, 1] (which
        keeps it in the ball)."""
        eps = float(self.eps)
        inside = (
            delta.clamp(-eps, eps) if self.norm == "Linf" else delta * (eps / _length(delta)).clamp(max=1)
        )
        return (x + inside).clamp(0, 1) - x

    def step(self, delta: Tensor, grad: Tensor, size: float) -> Tensor:
        """`delta` after a step of length `size` in the direction of steepest ascent for this norm."""
        direction = grad.sign() if self.norm == "Linf" else grad / _length(grad)
        return delta + size * direction

    @property
    def name(self) -> str:
        """As in a metric's name: `Linf_8_255`, `L2_1_2`, `L2_1`."""
        return f"{self.norm}_{self.eps}".replace("/", "_")

    def random(self, x: Tensor, gen: torch.Generator) -> Tensor:
        """A random start in the ball: uniform for Linf; for L2 a uniform direction with a radius uniform in
        [0, eps]."""
        if self.norm == "Linf":
            return self.project(
                (2 * torch.rand(x.shape, generator=gen, device=x.device) - 1) * float(self.eps), x
            )
        noise = torch.randn(x.shape, generator=gen, device=x.device)
        radius = torch.rand((len(x), 1, 1, 1), generator=gen, device=x.device) * float(self.eps)
        return self.project(noise / _length(noise) * radius, x)


def _length(v: Tensor) -> Tensor:
    """The L2 norm per image, never 0; accurate even for gradients of 1e-20, which confident networks give."""
    largest = v.abs().amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(v.dtype).tiny)
    return largest * torch.linalg.vector_norm(v / largest, dim=(1, 2, 3), keepdim=True).clamp(min=1)


def input_gradient(
    model: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The gradient of `loss(model(x), y)` with respect to `x`; no gradients of weights are computed."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(loss(model(x), y), x)
    return grad


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    budget: Budget,
    *,
    steps: int,
    step: float,
    loss: Callable[[Tensor, Tensor], Tensor],
    gen: torch.Generator,
    start: Tensor | None = None,
) -> Tensor:
    """`x_adv` in [0, 1] within `budget` of `x`: `steps` projected ascents of `loss`, each of size `step`,
    from `start` (a delta; default: random in the ball).

    The model stays in its current mode. `y` is passed to `loss` with the logits.
    """
    delta = budget.random(x, gen) if start is None else budget.project(start, x)
    for _ in range(steps):
        grad = input_gradient(model, x + delta, y, loss)
        delta = budget.project(budget.step(delta, grad, step), x)
    return x + delta


def step_size(budget: Budget, steps: int, step: Fraction | None) -> float:
    """The length of one step in units of the pixel range: `step`, or 2.5·eps/steps, which reaches the
    budget's edge from anywhere in the ball."""
    return float(budget.eps * 5 / (2 * steps) if step is None else step)


class Frozen:
    """A context in which `model` is in eval mode and its weights require no gradient. Both are restored
    afterwards. If `training`, the mode stays as it is: train mode, unless only the last layer is trained."""

    def __init__(self, model: nn.Module, *, training: bool = False) -> None:
        self.model, self.training = model, training

    def __enter__(self) -> None:
        self.before = self.model.training
        self.wanted = [p for p in self.model.parameters() if p.requires_grad]
        self.model.train(self.training and self.before)
        for p in self.wanted:
            p.requires_grad_(False)

    def __exit__(self, *_: Any) -> None:
        self.model.train(self.before)
        for p in self.wanted:
            p.requires_grad_(True)
