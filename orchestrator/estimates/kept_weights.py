"""Which trials of a sweep keep their trained weights (`run.keep`), and how much disk that takes: decided
before any of them runs, from the sizes of their networks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from typing_extensions import TypedDict

from orchestrator.planning.extents import Extents
from orchestrator.planning.plan import Plan
from orchestrator.planning.spec import RunSpec
from orchestrator.storage.ledger import Ledger
from orchestrator.storage.storage import Storage
from orchestrator.storage.stores import storage_of
from orchestrator.storage.trial_spec import TrialSpec
from poisons import Store
from poisons.records import Count
from poisons.sources.base import Extent
from trainers.families import Architecture
from trainers.flops import state_bytes
from trainers.stored import JsonFile

GB = 10**9


class WeightsRecord(TypedDict):
    """`weights/<network>.json`: the size of a network's weights."""

    bytes: Count


WEIGHTS = JsonFile[WeightsRecord](WeightsRecord)


@dataclass(frozen=True)
class KeptWeights:
    """The decision for a plan. `sizes` has the bytes of the weights of every trial that the plan trains
    and whose weights the store lacks, by key (None if the network could not be built); `kept` has the keys
    of the trials that keep them. A search runs only `most` of these trials."""

    run: RunSpec
    sizes: Mapping[str, int | None]
    kept: frozenset[str]
    most: int

    @property
    def more(self) -> frozenset[str]:
        """The keys of the trials whose weights the store will have, and does not have yet."""
        return self.kept & self.sizes.keys()

    def lines(self) -> list[str]:
        """What keeping weights costs, and what not keeping them would cost later; empty if there are none
        to keep."""
        count, kept = len(self.sizes), len(self.more)
        if not count:
            return []
        disk = size(sum(self.sizes[key] or 0 for key in self.more))
        disk += f" if all of them run (the search runs {self.most} at most)" if self.most < count else ""
        if kept == count:
            return [f"weights of {_trials(count)} will be kept on disk, {disk}"]
        later = f"a probe added later must train {_trials(count - kept)} again"
        every = size(sum(known or 0 for known in self.sizes.values()))
        if self.run.keep == "none":
            return [f"no weights are kept (run.keep: none), which saves {every} of disk; {later}"]
        unknown = sum(known is None for known in self.sizes.values())
        beyond = count - kept - unknown
        why = [f"{beyond} exceed run.keep_gb: {self.run.keep_gb:g}"] if beyond else []
        why += [f"{unknown} are of unknown size"] if unknown else []
        return [
            f"weights of {kept} of {_trials(count)} will be kept on disk, {disk}; "
            f"{', '.join(why)}: {later}; run.keep: weights keeps all, {every}"
        ]


def choose_kept_weights(plan: Plan, store: Store) -> KeptWeights:
    """Which of the trials that a plan trains keep their weights.

    With `keep: auto` the smallest networks come first, in the order of the sweep, until the weights of the
    sweep's trials, those in the store already included, come to `keep_gb`. Drivers that run one sweep at the
    same time make the same choice, whatever has been kept meanwhile: what is kept is what the choice begins
    with. Raises OSError if the store does not answer.
    """
    run, training = plan.sweep.run, {task.key: task.trial for task in plan.missing if task.trains}
    if not training:
        return KeptWeights(run, {}, frozenset(), 0)
    there, measure = Ledger(storage_of(store)).kept(), WeightSizes(store)
    sizes = {key: measure.of(trial) for key, trial in training.items() if key not in there}
    if run.keep == "auto":
        taken = sum(measure.of(task.trial) or 0 for task in plan.tasks if task.key in there)
        chosen = _smallest(sizes, run.keep_gb * GB - taken)
    else:
        chosen = frozenset(sizes if run.keep == "weights" else ())
    if run.keep != "none":
        chosen |= training.keys() & there
    return KeptWeights(run, sizes, chosen, plan.most)


def _smallest(sizes: Mapping[str, int | None], most: float) -> frozenset[str]:
    """As many of the smallest as fit into this many bytes; equal ones in their order."""
    chosen, left = set[str](), most
    for key, known in sorted(sizes.items(), key=lambda one: one[1] or 0):
        if known is None:
            continue
        left -= known
        if left < 0:
            break
        chosen.add(key)
    return frozenset(chosen)


def together(choices: Sequence[KeptWeights]) -> list[str]:
    """What several sweeps keep, in words; a trial that they share counts once."""
    sizes = {key: known for choice in choices for key, known in choice.sizes.items()}
    kept = {key for choice in choices for key in choice.more}
    if not sizes:
        return []
    amount = size(sum(sizes[key] or 0 for key in kept))
    if len(kept) == len(sizes):
        return [f"weights of {_trials(len(sizes))} will be kept on disk, {amount}"]
    later = f"a probe added later must train {_trials(len(sizes) - len(kept))} again"
    return [f"weights of {len(kept)} of {_trials(len(sizes))} will be kept on disk, {amount}; {later}"]


@dataclass
class WeightSizes:
    """Bytes of a trial's weights. Each network is counted once per store and cached under `weights/`."""

    store: Store
    known: dict[tuple[object, ...], int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.extents, self.storage = Extents(self.store), Ledger(storage_of(self.store)).storage

    def of(self, trial: TrialSpec) -> int | None:
        """Bytes of the weights of a trial's network; None if it cannot be built here."""
        architecture, extent = trial.train.architecture, self.extents.of(trial.data)
        name = (_handle(architecture), extent.shape, extent.num_classes)
        if name not in self.known:
            self.known[name] = _remembered(self.storage, architecture, extent)
        return self.known[name]


def size(count: int) -> str:
    """`12 GB`, `1.2 GB`, `67 MB`, `0.3 MB`"""
    unit, name = (GB, "GB") if count >= GB else (10**6, "MB")
    return f"{count / unit:.{0 if count >= 10 * unit else 1}f} {name}"


def _remembered(storage: Storage, architecture: Architecture, extent: Extent) -> int | None:
    shape = "x".join(map(str, extent.shape))
    place = f"weights/{architecture.kind}-{architecture.key}-{shape}-{extent.num_classes}.json"
    try:
        if (data := storage.read(place)) is not None:
            return WEIGHTS.read(data)["bytes"]
        found = state_bytes(architecture, shape=extent.shape, num_classes=extent.num_classes)
    except Exception:  # noqa: BLE001  (libraries raise what they like, and an estimate is worth no failure)
        return None
    with suppress(OSError):
        storage.write(place, json.dumps({"bytes": found}).encode())
    return found


def _handle(architecture: Architecture) -> object:
    """What distinguishes networks, quick to compare; options of a library's network have no hash."""
    try:
        hash(architecture)
    except TypeError:
        return architecture.key
    return architecture


def _trials(count: int) -> str:
    return f"{count} trial{'s' * (count != 1)}"
