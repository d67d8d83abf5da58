"""Surrogates: networks that are trained on clean images, so that poisons can be crafted against them. One is
trained once for all poisons and seeds that name it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from poisons.base import CraftContext
from poisons.surrogate_checkpoint import SurrogateCheckpoint, release
from trainers.images import Images
from trainers.loop import fit, generator
from trainers.numerical_platform import arithmetic_mark
from trainers.recipe import TrainSpec, one_thread
from trainers.spec import InputError

CPU = torch.device("cpu")
SEEN = 500  # clean images on which its progress is measured
STREAM = 85  # last part of the random stream that its seed is drawn from
VERSION = 2  # of its training, in its name
LEARNT = 0.05  # by which its accuracy has to exceed that of guessing, or half of that if it is less


def surrogate_name(spec: TrainSpec, seed: int, checkpoints: int = 1) -> str:
    """The name of a surrogate beside the clean images that it learns from: it is cached under this and the
    arithmetic of the device, since on another one its training ends elsewhere."""
    name = f"surrogate-{VERSION}-{spec.key}-{seed}"
    return name if checkpoints == 1 else f"{name}-{checkpoints}"


class Surrogate(NamedTuple):
    """Networks in eval mode on the device, at evenly spaced epochs of one training, the last at its end; the
    accuracy of the last on some of the clean images; and whether an earlier call trained it."""

    models: tuple[nn.Module, ...]
    accuracy: float
    reused: bool


def surrogate(
    spec: TrainSpec, clean: Images, seed: int, context: CraftContext, *, checkpoints: int = 1
) -> Surrogate:
    """The surrogate of a recipe, at so many epochs, of which the recipe has at least as many; the progress of
    its training is reported. InputError if it learnt nothing; what `fit` raises."""
    reused = True
    name = f"{surrogate_name(spec, seed, checkpoints)}-{arithmetic_mark(context.device)}"

    def train() -> dict[str, Tensor]:
        nonlocal reused
        reused = False
        return {"state": _train(name, spec, clean, seed, context, checkpoints)}

    found = context.cache(name, train)["state"]
    if context.checkpoint is not None:
        release(context.checkpoint)
    accuracy, states = found[0].item(), found[1:].chunk(checkpoints)
    guessing = 1 / clean.num_classes
    if accuracy < guessing + min(LEARNT, guessing / 2):
        raise InputError(
            f"the surrogate learnt nothing: its accuracy on what it was trained on is {accuracy:.1%}, with "
            f"{clean.num_classes} classes: train it for longer, or otherwise"
        )
    models = tuple(_network(spec, clean, seed, flat).to(context.device) for flat in states)
    return Surrogate(models, accuracy, reused)


def _train(
    name: str, spec: TrainSpec, clean: Images, seed: int, context: CraftContext, checkpoints: int
) -> Tensor:
    """The accuracy, then the weights and buffers at each checkpoint, as one float32 vector."""
    marks = {spec.epochs * (i + 1) // checkpoints for i in range(checkpoints)}
    states, crafting = list[Tensor](), context.checkpoint

    def keep(model: nn.Module, row: dict[str, float]) -> dict[str, float]:
        if int(row["epoch"]) in marks:
            values = model.state_dict().values()
            states.append(torch.cat([value.cpu().float().flatten() for value in values]))  # a copy
        return {}

    def report(row: dict[str, float]) -> None:
        context.report({"surrogate_epoch": int(row["epoch"]), "accuracy": round(row["test/clean_acc"], 4)})

    with one_thread(context.device):
        trained = fit(
            spec,
            clean,
            clean.subset(SEEN),
            # differs from `seed` itself, so that no victim starts from these weights, or sees this order
            seed=generator(CPU, seed, STREAM).initial_seed(),
            device=context.device,
            report=report,
            checkpoint=None if crafting is None else SurrogateCheckpoint(crafting, name, marks, states),
            watches={"checkpoints": keep},
        )
    return torch.cat([torch.tensor([trained.history[-1]["test/clean_acc"]]), *states])


def _network(spec: TrainSpec, clean: Images, seed: int, flat: Tensor) -> nn.Module:
    """The network of a recipe with these weights and buffers, on the host."""
    model = spec.network(num_classes=clean.num_classes, shape=clean.shape, seed=seed)
    wanted, weights = model.state_dict(), dict[str, Tensor]()
    parts: Sequence[Tensor] = flat.split([value.numel() for value in wanted.values()])
    for (name, value), part in zip(wanted.items(), parts, strict=True):
        weights[name] = part.view(value.shape).to(value.dtype)
    model.load_state_dict(weights)
    return model.to(memory_format=torch.channels_last).eval()
