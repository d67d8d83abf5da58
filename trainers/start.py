"""The start of a training: initial weights that replace those drawn from its seed, and the layers that are
trained."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Self

from torch import Tensor, nn

from trainers.families import Architecture
from trainers.meta import Shape
from trainers.spec import InputError, Plugin

Weights = Mapping[str, Tensor]
Pixels = tuple[tuple[float, ...], tuple[float, ...]]
Kept = Callable[[str], Weights | None]
PREFIXES = ("net.", "module.", "model.", "backbone.")  # of names in files that other code wrote
NAMED = 3  # tensors in a message, at most


@dataclass(frozen=True)
class Task:
    """What a network is needed for: its architecture, and the images."""

    architecture: Architecture
    shape: Shape
    num_classes: int


class Start(Plugin, family="start", package="trainers.starts"):
    """Initial weights, and the layers that are trained from there."""

    layers: Literal["all", "last"] = "all"
    """Layers that are trained: all, or only the last one on frozen features."""

    def pinned(self) -> Self:
        """A copy that names the weights by their content, where a path alone would not. InputError if there
        are none."""
        return self

    def check(self, architecture: Architecture) -> None:
        """ValueError if its weights cannot be those of this network."""

    def pixels(self, architecture: Architecture) -> Pixels | None:
        """Mean and standard deviation of each channel by which its weights expect images to be normalised,
        in units of the pixel range; None for the usual normalisation."""
        return None

    @abstractmethod
    def weights(self, task: Task, kept: Kept | None) -> Weights:
        """The weights, by the names of the bare network or of the one with its normalisation. `kept` gives
        the weights of a finished trial by its key; None outside a sweep. InputError."""


def begin_from(weights: Weights, model: nn.Module, *, head: str | None, source: str) -> None:
    """Load `weights` into `model`. Those of the layer named `head`, which depend on the classes, are left
    out where they do not fit. InputError, beginning with `source`, if any other weight is missing or has
    another shape."""
    wanted = model.state_dict()
    found = _renamed(weights, wanted)
    own = () if head is None else tuple(name for name in wanted if name.rpartition(".")[0] == head)
    fresh = {name for name in own if name not in found or found[name].shape != wanted[name].shape}
    wrong = [
        f"{name} is {tuple(found[name].shape) if name in found else 'missing'}, not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name not in (own if fresh else ()) and (name not in found or found[name].shape != value.shape)
        if not name.endswith("num_batches_tracked")
    ]
    if wrong:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise InputError(
            f"{source}: these are weights of another network: {'; '.join(wrong[:NAMED])}{more}; "
            "write the architecture that they belong to"
        )
    taken = {name: found[name] for name in wanted if name in found and not (fresh and name in own)}
    if not all(value.isfinite().all() for value in taken.values() if value.is_floating_point()):
        raise InputError(f"{source}: some of its weights are not finite")
    model.load_state_dict(taken, strict=False)


def _renamed(weights: Weights, wanted: Weights) -> dict[str, Tensor]:
    """The weights under the names that the network has, which begin with `net.`."""
    found = {}
    for name, value in weights.items():
        bare = name
        while bare not in wanted and f"net.{bare}" not in wanted:
            prefix = next((one for one in PREFIXES if bare.startswith(one)), None)
            if prefix is None:
                break
            bare = bare.removeprefix(prefix)
        found[bare if bare in wanted else f"net.{bare}"] = value
    return found
