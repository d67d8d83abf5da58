"""A training that starts from pretrained weights of timm, PyTorch Image Models (Wightman, 2019)."""

from __future__ import annotations

import copy
import warnings
from typing import Any, ClassVar

import torch

from trainers.architectures.timm import Timm
from trainers.families import Architecture
from trainers.spec import InputError
from trainers.start import Kept, Pixels, Start, Task, Weights


class TimmStart(Start, kind="timm"):
    """Pretrained weights of timm, for the architecture `{kind: timm, name: ...}` of the same name.

    Images are normalised as these weights expect (by the mean over the colours where there are not as many
    channels). They are downloaded from the Hugging Face Hub once and
    cached by it. The last layer is drawn anew, and the first one adapted to the number of channels.
    """

    smoke: ClassVar[dict[str, Any]] = {"name": "test_resnet.r160_in1k"}
    name: str
    """Name with the tag of the weights, such as resnet18.a1_in1k."""

    def check(self, architecture: Architecture) -> None:
        base = self.name.partition(".")[0]
        if not isinstance(architecture, Timm) or architecture.name.partition(".")[0] != base:
            raise ValueError(
                f"these weights belong to the architecture {{kind: timm, name: {base}}}: write that"
            )

    def pixels(self, architecture: Architecture) -> Pixels | None:
        config = network(architecture).library().get_pretrained_cfg(self.name)
        return None if config is None else (tuple(config.mean), tuple(config.std))

    def weights(self, task: Task, kept: Kept | None) -> Weights:
        found = network(task.architecture)
        try:
            with warnings.catch_warnings(action="ignore"), torch.random.fork_rng(devices=[]):
                net = found.made(self.name, copy.deepcopy(found.options), task.shape, pretrained=True)
        except Exception as error:
            why = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"start: the weights of timm's {self.name!r} could not be had ({why[0]}); on a machine "
                "without a network, fill Hugging Face's cache on one that has it, and copy it"
            ) from error
        return net.state_dict()


def network(architecture: Architecture) -> Timm:
    """The architecture, which `check` has found to be timm's."""
    if not isinstance(architecture, Timm):
        raise InputError(f"start: timm's weights are not for the architecture {architecture.kind}")
    return architecture
