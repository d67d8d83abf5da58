"""Softmax regression, by full-batch L-BFGS from zero weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trainers.flops import Work

HISTORY = 10  # steps that L-BFGS remembers
EVALUATIONS = 1.25  # of the loss and its gradient in an iteration, line search included
KERNELS = 60  # in an evaluation, with its part of L-BFGS


def regression_work(rows: int, size: int, num_classes: int, iterations: int) -> Work:
    """The work of so many iterations on `rows` vectors of `size` numbers."""
    one = Work(4.0 * rows * size * num_classes, values=2.0 * rows * num_classes, kernels=KERNELS)
    return one * (EVALUATIONS * iterations)


def softmax_regression(
    x: Tensor, labels: Tensor, num_classes: int, *, l2: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Weights K,D and biases K that minimise the mean cross-entropy of `x` float N,D and `labels` int64 N,
    plus l2/2 times the squared norm of the weights, after at most so many iterations."""
    weight = torch.zeros((num_classes, x.shape[1]), dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(num_classes, dtype=x.dtype, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=iterations,
        history_size=HISTORY,
        tolerance_grad=1e-7,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = F.cross_entropy(x @ weight.mT + bias, labels) + l2 / 2 * weight.square().sum()
        found.backward()
        return found.detach()

    with torch.enable_grad():
        optimizer.step(loss)
    return weight.detach(), bias.detach()
