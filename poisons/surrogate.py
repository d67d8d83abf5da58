"""Surrogates: networks that are trained on clean images, so that poisons can be crafted against them. One is
trained once for all poisons and seeds that name it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from poisons.base import CraftContext
from trainers.images import Images
from trainers.loop import fit
from trainers.recipe import TrainSpec, one_thread
from trainers.spec import InputError

SEEN = 500  # clean images on which its progress is measured
LEARNT = 1.5  # times the accuracy of guessing that it has to reach


def surrogate_name(spec: TrainSpec, seed: int) -> str:
    """The name under which a surrogate is cached beside the clean images that it learns from."""
    return f"surrogate-{spec.key}-{seed}"


class Surrogate(NamedTuple):
    """A trained network, in eval mode on the device, its accuracy on some of the clean images, and whether an
    earlier call trained it."""

    model: nn.Module
    accuracy: float
    reused: bool


def surrogate(spec: TrainSpec, clean: Images, seed: int, context: CraftContext) -> Surrogate:
    """The surrogate of a recipe; its progress is reported. InputError if it learnt nothing; what `fit`
    raises."""
    some, device, reused = clean.subset(SEEN), context.device, True

    def train() -> dict[str, Tensor]:
        nonlocal reused
        reused = False

        def report(row: dict[str, float]) -> None:
            context.report(
                {"surrogate_epoch": int(row["epoch"]), "accuracy": round(row["test/clean_acc"], 4)}
            )

        with one_thread(device):
            trained = fit(spec, clean, some, seed=seed, device=device, report=report)
        accuracy = torch.tensor([trained.history[-1]["test/clean_acc"]])
        state = [value.detach().cpu().float().flatten() for value in trained.model.state_dict().values()]
        return {"state": torch.cat([accuracy, *state])}

    found = context.cache(surrogate_name(spec, seed), train)["state"]
    accuracy, flat = found[0].item(), found[1:]
    if accuracy * clean.num_classes < LEARNT:
        raise InputError(
            f"the surrogate learnt nothing: its accuracy on clean images is {accuracy:.1%}, with "
            f"{clean.num_classes} classes: train it for longer, or otherwise"
        )
    model = spec.network(num_classes=clean.num_classes, shape=clean.shape, seed=seed)
    wanted, weights = model.state_dict(), dict[str, Tensor]()
    parts = flat.split([value.numel() for value in wanted.values()])
    for (name, value), part in zip(wanted.items(), parts, strict=True):
        weights[name] = part.view(value.shape).to(value.dtype)
    model.load_state_dict(weights)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Surrogate(model.eval(), accuracy, reused)
