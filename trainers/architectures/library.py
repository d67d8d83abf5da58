"""Networks from another library, by their name there: never pretrained, and tried out once before
training."""

from __future__ import annotations

import copy
import difflib
import warnings
from abc import abstractmethod
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from trainers.families import Architecture
from trainers.spec import InputError, nearest


class LibraryModel(Architecture):
    """An untrained network of the library `package`, by its name there."""

    package: ClassVar[str]
    settled: ClassVar[
        frozenset[str]
    ]  # options that are refused: the data determines them, or they load weights
    hint: ClassVar[str]
    name: str
    """Name of the network in the library."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of its constructor; classes, channels and weights cannot be set."""

    @classmethod
    @abstractmethod
    def names(cls) -> list[str]:
        """Every network of the library."""

    @abstractmethod
    def create(self, options: dict[str, Any], *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        """The bare network; the library may raise any error."""

    @property
    def available(self) -> bool:
        return find_spec(self.package) is not None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if find_spec(cls.package) is None:  # a sweep may be planned where it cannot be trained
            return name
        known = cls.names()
        if name not in known:
            close = difflib.get_close_matches(name, known, n=5, cutoff=0)
            more = f" and {len(known) - len(close)} more"
            raise ValueError(f"unknown {cls.package} network {name!r}{nearest(name, close)}{more}")
        return name

    @field_validator("options")
    @classmethod
    def _free(cls, options: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(cls.settled & options.keys())
        if taken:
            raise ValueError(
                f"leave out {taken[0]!r}: classes and channels come from the data, and nothing is pretrained"
            )
        return options

    @classmethod
    def library(cls) -> ModuleType:
        """The imported package; InputError where it is not installed."""
        try:
            with warnings.catch_warnings(action="ignore"):
                return import_module(cls.package)
        except ModuleNotFoundError:
            raise InputError(
                f"architecture {cls.kind} needs the {cls.package} package: pip install {cls.package}"
            ) from None

    def build(self, *, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
        self.library()
        c, h, w = shape
        try:
            with warnings.catch_warnings(action="ignore"):
                net = self.create(copy.deepcopy(self.options), num_classes=num_classes, shape=shape)
                try_out(net, num_classes=num_classes, shape=shape)
        except Exception as error:
            why = str(error).strip().splitlines() or [type(error).__name__]
            raise InputError(
                f"{self.package}'s {self.name!r} cannot be trained on {h}x{w} images of {c} channels: "
                f"{why[0]}; perhaps `options` help, such as {self.hint}"
            ) from error
        return net


def try_out(net: nn.Module, *, num_classes: int, shape: tuple[int, int, int]) -> None:
    """Raise unless two images in training mode give logits 2,K; `net` and the random state stay as they
    are."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        out = copy.deepcopy(net).train()(torch.zeros(2, *shape))
    if not isinstance(out, Tensor):
        raise TypeError(f"it returned {type(out).__name__}, not one tensor of logits")
    if out.shape != (2, num_classes):
        raise ValueError(f"it returned shape {tuple(out.shape)} for 2 images of {num_classes} classes")
