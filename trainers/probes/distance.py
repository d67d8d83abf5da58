"""How far the weights move from their initial values, as in Figure 4 of the One-Pixel Shortcut paper (Wu et
al., ICLR 2023): a shortcut can be learnt, and the training set fitted, with weights that hardly move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from trainers.flops import Work
from trainers.images import Images
from trainers.probe import Examined, Finding, Probe, Row, Subject, Watch
from trainers.probe_view import Mark, ProbeView


class Distance(Probe, kind="distance"):
    """After each epoch ||w_t - w_0||, the L2 distance over all parameters (no running statistics), and
    `relative`, the same in units of ||w_0||.

    Metrics are those of the last epoch and, if the threshold is reached, `epoch_at_90`. If weights are
    averaged, the average is measured. Costs no forward pass, only two passes over the weights per epoch and a
    copy of them.
    """

    watches = True
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Training accuracy whose first epoch is the metric `epoch_at_90` (for 0.9)."""

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("distance", "relative")

    def view(self, sets: Sequence[str]) -> ProbeView:
        return ProbeView(
            says="Distance of the weights from their initial values, relative to the initial norm, after "
            "each epoch. A dot marks the first epoch that fits the training images.",
            curves=["relative"],
            marks=[
                Mark(
                    curve="relative",
                    epoch=self._reached,
                    filled=True,
                    says="fits the training images from epoch {epoch}",
                )
            ],
        )

    @property
    def _reached(self) -> str:
        return f"epoch_at_{100 * self.threshold:g}"

    def work(self, examined: Examined) -> Work:
        return Work()

    def watch(self, initial: nn.Module, test: Images, device: torch.device) -> Watch:
        length = distance(initial)

        def measure(model: nn.Module, _: Row) -> Row:
            moved = distance(model, initial)
            return {"distance": moved, "relative": moved / length}

        return measure

    def run(self, subject: Subject) -> Finding:
        curves = {name: [row[name] for row in subject.watched] for name in self.metrics}
        metrics = {name: curve[-1] for name, curve in curves.items()}
        reached = [row["epoch"] for row in subject.history if row["train/acc"] >= self.threshold]
        if reached:
            metrics[self._reached] = reached[0]
        return Finding(metrics, curves)


@torch.no_grad()
def distance(model: nn.Module, origin: nn.Module | None = None) -> float:
    """The L2 norm of the parameters of `model`, less those of `origin`, a network of the same architecture;
    summed in float64."""
    weights = [p.double() for p in model.parameters()]
    if origin is not None:
        weights = [w - p.double() for w, p in zip(weights, origin.parameters(), strict=True)]
    return math.sqrt(torch.stack([w.square().sum() for w in weights]).sum().item())
