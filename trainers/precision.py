"""The arithmetic that a network is trained and evaluated in: bfloat16 if the device has it and computes every
layer of the network correctly in it, else float32.

Verdicts on layers are cached per machine, in `$OPSCTL_CACHE/precision` (default: ~/.cache/opsctl/precision),
by numerical platform (which includes torch's version), layer and shapes. It is safe to delete the folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from filelock import FileLock
from pydantic import Field, FiniteFloat
from torch import nn
from typing_extensions import TypedDict

from trainers.families import Architecture
from trainers.layers import Gradients, Layer, Verdict, examine, examine_apart, layers_of
from trainers.meta import META, Shape, on_meta
from trainers.numerical_platform import NumericalPlatform, PlatformRecord, numerical_platform
from trainers.recipe import Precision, TrainSpec, repeatable
from trainers.spec import InputError
from trainers.stored import DamagedError, JsonFile

VERSION = 3  # of the meaning of a verdict
NAMED = 3  # layers named in a message, at most

Failures = dict[str, Verdict]  # by layer


class VerdictRecord(TypedDict):
    """A verdict on disk; an infinite error is None."""

    layer: str
    error: Annotated[FiniteFloat, Field(ge=0)] | None
    part: str
    platform: PlatformRecord


VERDICT = JsonFile[VerdictRecord](VerdictRecord)


@dataclass(frozen=True)
class Arithmetic:
    """The arithmetic of a network. `fallback` says why `auto` chose float32 on a device that has bfloat16."""

    precision: Precision
    fallback: str | None = None

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """A context in which `device` computes in this arithmetic, with float32 weights."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


@dataclass(frozen=True)
class BatchSizes:
    """The batch sizes of a training, of attacks and of an evaluation."""

    training: frozenset[int] = frozenset()
    attack: frozenset[int] = frozenset()
    evaluation: frozenset[int] = frozenset()

    @property
    def passes(self) -> list[tuple[int, Gradients]]:
        """Each size once, with the most gradients needed for it."""
        found: dict[int, Gradients] = dict.fromkeys(self.evaluation, "none")
        found.update((size, "inputs") for size in self.attack)
        found.update((size, "all") for size in self.training)
        return sorted(found.items())


def batch_sizes(images: int, size: int) -> frozenset[int]:
    """The sizes of the batches of `images` images, `size` at a time: all equal except the last."""
    return frozenset({min(images, size), images % size} - {0})


def resolve(
    spec: TrainSpec,
    *,
    shape: Shape,
    num_classes: int,
    sizes: BatchSizes,
    device: torch.device,
    field: str = "train.precision",
) -> Arithmetic:
    """`spec.precision` resolved for this network, images of `shape` (C, H, W) and batches on `device`.

    Before bfloat16 is used, every distinct layer is run in both precisions; verdicts are cached. If a layer
    is wrong, `auto` resolves to float32, and an explicit `bfloat16` is an InputError that names `field`.
    Batches of other sizes, as in AutoAttack and some probes, are assumed to behave the same.
    """
    if spec.arithmetic(device) == "float32":
        return Arithmetic("float32")
    platform = numerical_platform(device)
    try:
        found = failures(spec.architecture, shape=shape, num_classes=num_classes, sizes=sizes, device=device)
    except (MemoryError, torch.OutOfMemoryError) as error:
        if spec.precision == "bfloat16":
            raise
        return Arithmetic("float32", f"float32 in place of bfloat16, which could not be checked: {error}")
    if not found:
        return Arithmetic("bfloat16")
    named = "; ".join(f"{layer}: {_in_words(verdict)}" for layer, verdict in list(found.items())[:NAMED])
    more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    reason = (
        f"bfloat16 is computed wrongly here ({platform.short}) in {len(found)} "
        f"layer{'s' if len(found) > 1 else ''} of {spec.architecture.kind}: {named}{more}"
    )
    if spec.precision == "bfloat16":
        raise InputError(f"{field}: {reason}. Write float32, or auto, which chooses it where this happens")
    return Arithmetic("float32", f"float32 in place of bfloat16: {reason}")


_known: dict[tuple[str, str, Shape, int, BatchSizes], Failures] = {}


def failures(
    architecture: Architecture,
    *,
    shape: Shape,
    num_classes: int,
    sizes: BatchSizes,
    device: torch.device,
) -> Failures:
    """The layers that `device` computes wrongly in bfloat16, with their verdicts; cached."""
    platform = numerical_platform(device)
    name = platform.key, architecture.key, shape, num_classes, sizes
    if name not in _known:
        network = on_meta(architecture, shape, num_classes).eval()
        layers = [
            layer
            for n, gradients in sizes.passes
            for layer in _layers(network, architecture, (n, *shape), num_classes, device, gradients)
        ]
        _known[name] = _wrong(layers, platform, device)
    return _known[name]


def _layers(
    network: nn.Module,
    architecture: Architecture,
    batch: tuple[int, int, int, int],
    num_classes: int,
    device: torch.device,
    gradients: Gradients,
) -> Iterable[Layer]:
    """The distinct layers of a batch. A network that cannot run on the meta device is run on zeros."""
    try:
        return layers_of(network, _zeros(batch, META), gradients)
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        real = architecture.network(num_classes=num_classes, shape=batch[1:], seed=0)
        real.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            return layers_of(real.eval(), _zeros(batch, device), gradients)


def _zeros(batch: tuple[int, int, int, int], device: torch.device) -> torch.Tensor:
    return torch.zeros(batch, device=device).contiguous(memory_format=torch.channels_last)


def _wrong(layers: Sequence[Layer], platform: NumericalPlatform, device: torch.device) -> Failures:
    """The layers that are wrong on this platform; those without a cached verdict are run."""
    folder = _folder() / platform.key
    with _turn(folder):
        return _known_or_run(layers, platform, device, folder)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """A lock, so that processes of one machine run the same layers only once. If the folder cannot be
    written, each process runs them itself. (filelock comes with torch.)"""
    lock = FileLock(folder / "lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _known_or_run(
    layers: Sequence[Layer], platform: NumericalPlatform, device: torch.device, folder: Path
) -> Failures:
    named = {f"{layer}, gradients: {layer.gradients}": layer for layer in layers}
    known = {text: _read(folder / _file(text), text) for text in named}
    new = [text for text, verdict in known.items() if verdict is None]
    if new:
        fresh = _examined([named[text] for text in new], device)
        for text, verdict in zip(new, fresh, strict=True):
            known[text] = verdict
            _keep(folder / _file(text), text, verdict, platform)
    return {
        text: verdict
        for text, verdict in known.items()
        if verdict is not None and not named[text].accepts(verdict)
    }


def _examined(layers: Sequence[Layer], device: torch.device) -> Iterator[Verdict]:
    if device.type == "cpu":
        yield from examine_apart(layers)
        return
    with repeatable(), torch.autocast(device.type, enabled=False):
        for layer in layers:
            yield examine(layer, device)


def _keep(file: Path, text: str, verdict: Verdict, platform: NumericalPlatform) -> None:
    error = verdict.error if math.isfinite(verdict.error) else None
    record = VerdictRecord(layer=text, error=error, part=verdict.part, platform=platform.to_json())
    with suppress(OSError):  # the file only saves seconds next time
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(record))
        os.replace(temporary, file)


def _file(text: str) -> str:
    return f"{hashlib.sha256(f'{VERSION} {text}'.encode()).hexdigest()[:16]}.json"


def _read(file: Path, text: str) -> Verdict | None:
    """The cached verdict on this layer; None if there is none, or the file is damaged."""
    try:
        record = VERDICT.read_file(file)
    except (OSError, DamagedError):
        return None
    if record is None or record["layer"] != text:
        return None
    return Verdict(math.inf if record["error"] is None else record["error"], record["part"])


def _folder() -> Path:
    return Path(os.environ.get("OPSCTL_CACHE") or "~/.cache/opsctl").expanduser() / "precision"


def _in_words(verdict: Verdict) -> str:
    """`the gradient of weight is off by 140 %`"""
    if not math.isfinite(verdict.error):
        return f"the {verdict.part} is not finite"
    return f"the {verdict.part} is off by {verdict.error:.2g} times its size"
