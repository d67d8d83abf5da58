"""One trial: data set, training, evaluation, looks, result. Safe to run twice, by anyone, at any time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from filelock import FileLock
from torch import Tensor, nn

from orchestrator.planning.probes import PlannedLook
from orchestrator.planning.spec import RunSpec
from orchestrator.storage.backoff import patiently
from orchestrator.storage.ledger import WEIGHTS, Ledger, with_looks
from orchestrator.storage.quarantine import quarantine
from orchestrator.storage.records import Record
from orchestrator.storage.trial_files import keep_weights, kept_weights, trial_checkpoint
from orchestrator.storage.trial_spec import TrialSpec
from poisons import CraftContext, DataSpec, Store
from poisons.store.remote import RemoteCheckpoint
from trainers import Images
from trainers.loop import Metrics, Report, Trained
from trainers.numerical_platform import numerical_platform
from trainers.probe import ProbeRun, check_probe_inputs
from trainers.provenance import environment
from trainers.spec import plain
from trainers.stored import DamagedError


class DataRecord(TypedDict):
    """A data set, in the record of a trial that read it; None for what is not known."""

    sha256: str | None
    platform: str | None


Opener = Callable[[DataSpec], Images]


def run_trial(
    trial: TrialSpec,
    store: Store,
    *,
    device: torch.device,
    report: Report = lambda _: None,
    run: RunSpec = RunSpec(),  # noqa: B008  (frozen)
    images: Opener | None = None,
    looks: Sequence[PlannedLook] = (),
) -> Record:
    """The record of the trial, from the ledger if it is done, else trained and published. `report` is given
    each epoch's row; `images` opens a data set (default: the store does, and builds it if need be).

    What `looks` find is published before the result, and is in the record's metrics. Of a trial that has its
    result but lacks looks, kept weights are looked at; where there are none, or a probe watches epochs, it is
    trained again, and its first result stays. A look that fails costs no result: its exception is raised when
    all else is published.

    The weights are kept if `run.keep` is `weights`; what `auto` keeps is decided for a whole sweep, see
    costs/kept_weights.py.

    A trial that was killed goes on from its last checkpoint. Two runners of one trial on one machine take
    turns; the second finds it done.
    """
    ledger, key = Ledger(store.where), trial.key
    take = images or (lambda spec: store.ensure(spec, CraftContext(device=device)))
    with FileLock(store.root / "locks" / f"trial-{key}.lock"):
        checkpoint = trial_checkpoint(store, key, every=run.checkpoint_seconds)
        record = ledger.result(key)
        lacks = [look for look in looks if ledger.look(key, look.key) is None]
        if record is None or lacks:
            runner = _Runner(trial, store, ledger, device, checkpoint)
            record = runner.carry_out(record, lacks, take, report, keep=run.keep == "weights")
        checkpoint.remove()  # a runner may have been killed between its result and this
    found = ledger.findings({key: {look.name: look.key for look in looks}})[key] if looks else {}
    return with_looks(record, found)


@dataclass
class _Runner:
    """Whoever runs a trial, whose lock is held."""

    trial: TrialSpec
    store: Store
    ledger: Ledger
    device: torch.device
    checkpoint: RemoteCheckpoint
    warnings: list[str] = field(default_factory=list)  # on what was kept of an earlier training

    def carry_out(
        self, done: Record | None, lacks: Sequence[PlannedLook], take: Opener, report: Report, *, keep: bool
    ) -> Record:
        """The result, published if it was not `done`, and what the looks find that it lacks. Raises what the
        first look raised that failed, when all else is published; the checkpoint stays then."""
        test, train = (take(spec) for spec in self.trial.needs)
        looks = [
            ProbeRun(look.name, look.probe, {n: take(s) for n, s in look.sets.items()}) for look in lacks
        ]
        watched = any(look.probe.watches for look in lacks)
        trained = None if done is None or watched else self._kept(done, train)
        record, origin = done or {}, "kept weights"
        if trained is not None:  # else it is checked before the training
            check_probe_inputs(looks, self.trial.train, train, test.subset(self.trial.evaluation.limit))
        if trained is None:
            trained, record = self._train(train, test, looks, report)
            origin = "training" if done is None else "another training"
            self._keep(trained.model, record, keep=keep, first=done is None)
        failed = []
        for planned, look in zip(lacks, looks, strict=True):
            try:
                self._look(trained, train, test, planned, look, origin)
            except Exception as error:  # noqa: BLE001  (whatever a look raises costs no result)
                record["warnings"].append(f"the look {look.name!r} failed: {error}")
                error.add_note(f"in the look {look.name!r}; the result of the training is kept")
                failed.append(error)
        if done is None:
            record = patiently(lambda: self.ledger.publish(self.trial.key, record))
        if failed:
            raise failed[0]
        if done is not None:
            self.ledger.forget(self.trial.key)  # that a look had failed
        return done or record

    def _train(
        self, train: Images, test: Images, looks: Sequence[ProbeRun], report: Report
    ) -> tuple[Trained, Record]:
        """Train. Where there is something to look at, the end is kept as a checkpoint: a look takes long, and
        whoever is killed meanwhile, or fails, need not train again."""

        def told(row: Metrics) -> None:
            report(row)
            if looks and row["epoch"] >= self.trial.train.epochs:
                self.checkpoint.every = 0.0

        trained, record = self.trial.train_and_evaluate(
            train, test, device=self.device, report=told, checkpoint=self.checkpoint, probe_runs=looks
        )
        needs = [spec.name for spec in self.trial.needs]
        sets = {spec.name: self._data_record(spec) for spec in self.trial.needs}
        return trained, record | {"data_key": self.trial.data.key, "needs": needs, "data_sets": sets}

    def _data_record(self, spec: DataSpec) -> DataRecord:
        """Which bytes a data set had, and where they were computed: its key alone does not say."""
        record = self.store.record(spec) or {}
        digest = record.get("files", {}).get("data.arrow", {}).get("sha256")
        return {"sha256": digest, "platform": (record.get("platform") or {}).get("name")}

    def _kept(self, done: Record, like: Images) -> Trained | None:
        """What a finished training left, if its weights were kept and are not damaged."""
        architecture = self.trial.train.architecture
        model = architecture.network(num_classes=like.num_classes, shape=like.shape, seed=self.trial.seed)
        if (weights := self._weights(model)) is None:
            return None
        model.load_state_dict(weights)
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Trained(model.eval(), done["history"], 0.0)

    def _weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """The weights that were kept of such a network. Damaged ones are put aside, with a warning, and count
        as not kept."""
        try:
            return kept_weights(self.store, self.trial.key, model)
        except DamagedError as error:
            self.warnings.append(f"the kept weights were damaged ({error}); the trial was trained again")
            quarantine(self.ledger.storage, f"trials/{self.trial.key}/{WEIGHTS}")
            return None

    def _keep(self, model: nn.Module, record: Record, *, keep: bool, first: bool) -> None:
        """Keep the weights, or not. The first result and the weights are of one training: what a runner left
        that was killed before its result goes. The result is worth more than they are."""
        try:
            if keep and (first or self._weights(model) is None):
                keep_weights(self.store, self.trial.key, model)
            elif first and not keep:
                self.ledger.storage.remove(f"trials/{self.trial.key}/{WEIGHTS}")
        except OSError as error:
            record["warnings"].append(f"the weights could not be kept: {error}")

    def _look(
        self, trained: Trained, train: Images, test: Images, planned: PlannedLook, look: ProbeRun, origin: str
    ) -> None:
        """Publish what a look finds at the network that comes from `origin`."""
        told = {"device": self.device, "history": trained.history, "watched": trained.watched}
        found = self.trial.run_probes(trained.model, train, test, [look], **told)[look.name]  # type: ignore[arg-type]
        sets = {name: spec.name for name, spec in planned.sets.items()}
        record = {"look": look.name, "probe": plain(look.probe), "sets": sets, "of": origin, **found}
        record |= {"warnings": self.warnings} if self.warnings else {}
        record |= {"environment": environment(), "platform": numerical_platform(self.device).to_json()}
        patiently(lambda: self.ledger.publish_look(self.trial.key, planned.key, record))
