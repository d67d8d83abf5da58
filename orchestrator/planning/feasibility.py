"""What can never work, reported when a sweep is planned instead of hours later: networks that fit on no
device, and batches larger than the training set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from orchestrator.planning.extents import Extents
from orchestrator.storage.trial_spec import TrialSpec
from trainers import InputError, Spec, TrainSpec
from trainers.families import Architecture
from trainers.meta import built_on_meta
from trainers.spec import specs_in

WIDE = 4096  # a network with a larger setting is measured
WIDEST = 100_000  # a larger setting is refused unmeasured: building the network would take minutes
MOST_WEIGHTS = 5 * 10**10  # with gradients and momentum in float32 600 GB, twice what the largest GPU has
BATCH = TrainSpec.model_fields["batch_size"].default
SHAPE, CLASSES = (3, 32, 32), 10  # for measuring; the size of a large network hardly depends on them


def check_networks(trial: TrialSpec, where: str) -> None:
    """InputError, beginning with `where`, for a network that no device can hold: the trial's, or one that
    its poison trains."""
    for path, network in networks(trial):
        large = {name: value for name, value in network if isinstance(value, int) and value > WIDE}
        if large and (weights := _weights(network.key, network)) > MOST_WEIGHTS:
            name, value = max(large.items(), key=lambda item: item[1])
            size = f"{weights:.0e} weights" if weights < float("inf") else "more weights than can be counted"
            raise InputError(
                f"{where}: {path}.{name}: {value:,} makes a {network.kind} of {size}, which fits no device; "
                f"write a smaller {name}"
            )


def networks(spec: Spec, path: str = "") -> Iterator[tuple[str, Architecture]]:
    """The networks in a spec, with their paths."""
    for name in _parts(type(spec)):
        value = getattr(spec, name)
        several = isinstance(value, tuple)
        for i, item in enumerate(value if several else (value,)):
            here = f"{path}{name}.{i}" if several else f"{path}{name}"
            if isinstance(item, Architecture):
                yield here, item
            elif isinstance(item, Spec):
                yield from networks(item, f"{here}.")


@cache
def _parts(spec: type[Spec]) -> tuple[str, ...]:
    """The fields that contain specs."""
    return tuple(name for name, field in spec.model_fields.items() if specs_in(field.annotation))


_known: dict[str, float] = {}


def _weights(key: str, network: Architecture) -> float:
    """The number of weights of a network; infinite if they cannot be counted, 0 if it cannot be built on
    the meta device."""
    if key not in _known:
        _known[key] = _count(network)
    return _known[key]


def _count(network: Architecture) -> float:
    if any(isinstance(value, int) and value > WIDEST for _, value in network):
        return float("inf")
    try:
        built = built_on_meta(network, SHAPE, CLASSES)
    except RuntimeError as error:
        return float("inf") if "overflow" in str(error) else 0.0
    except (NotImplementedError, ValueError):
        return 0.0  # a library's network that needs numbers, or other images
    return float(sum(p.numel() for p in built.parameters()))


def check_batches(trials: Mapping[str, TrialSpec], extents: Extents, where: str) -> None:
    """InputError, beginning with `where`, for a batch size that was set explicitly and is larger than the
    training set. `trials` are by the name of their point.

    A subset (`data.limit`) may be smaller than a batch, and a small set than the default batch: then each
    step takes all of the images, and remarks.py warns of it for subsets.
    """
    for name, trial in trials.items():
        size, usual = trial.train.batch_size, trial.train.architecture.recipe().get("batch_size", BATCH)
        there = None if size == usual else extents.known(trial.data.model_copy(update={"limit": None}))
        if there is not None and size > there.images:
            raise InputError(
                f"{where} (at {name}): train.batch_size: {size:,} is larger than the training set, which has "
                f"{there.images:,} images; write at most {there.images}"
            )
