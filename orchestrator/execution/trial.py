"""One trial: data set, training, evaluation, probes, result. Idempotent: any process may run it again at
any time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypedDict, cast

import torch
from filelock import FileLock
from torch import Tensor, nn

from orchestrator.planning.probes import PlannedProbe
from orchestrator.planning.spec import RunSpec
from orchestrator.storage.backoff import patiently
from orchestrator.storage.ledger import WEIGHTS, Ledger, with_findings
from orchestrator.storage.quarantine import quarantine
from orchestrator.storage.records import Finding, Result
from orchestrator.storage.stores import storage_of
from orchestrator.storage.trial_files import final_weights, keep_weights, kept_weights, trial_checkpoint
from orchestrator.storage.trial_spec import TrialSpec
from poisons import CraftContext, DataSpec, Store
from trainers import Images
from trainers.checkpoint import Checkpoint
from trainers.families import Metrics, Report
from trainers.loop import Trained, prepared
from trainers.numerical_platform import numerical_platform
from trainers.probe import ProbeRun, check_probe_inputs
from trainers.provenance import environment
from trainers.spec import plain
from trainers.stored import DamagedError


class DataRecord(TypedDict):
    """A data set, in the record of a trial that read it; None for what is unknown."""

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
    probes: Sequence[PlannedProbe] = (),
) -> Result:
    """The record of the trial, from the ledger if it is done, else trained and published. `report` is given
    each epoch's row; `images` opens a data set (default: the store does, and builds it if need be).

    The findings of `probes` are published before the result, and their metrics are in the returned record. If
    a trial has its result but not all findings, the missing probes run on its kept weights. If there are
    none, or a probe observes epochs, it is trained again, and its first result stays. If a probe fails, its
    exception is raised after everything else is published.

    The weights are kept if `run.keep` is `weights`; what `auto` keeps is decided for a whole sweep, see
    estimates/kept_weights.py.

    A trial that was killed resumes from its last checkpoint. Two runners of one trial on one machine take
    turns; the second finds it done.
    """
    ledger, key = Ledger(storage_of(store)), trial.key
    take = images or (lambda spec: store.ensure(spec, CraftContext(device=device)))
    with FileLock(store.root / "locks" / f"trial-{key}.lock"):
        checkpoint = trial_checkpoint(store, key, every=run.checkpoint_seconds)
        record = ledger.result(key)
        missing = [planned for planned in probes if ledger.finding(key, planned.key) is None]
        if record is None or missing:
            runner = _Runner(trial, store, ledger, device, checkpoint)
            record = runner.carry_out(record, missing, take, report, keep=run.keep == "weights")
        checkpoint.remove()  # an earlier runner may have been killed right after publishing
    found = ledger.findings({key: {one.name: one.key for one in probes}})[key] if probes else {}
    return with_findings(record, found)


@dataclass
class _Runner:
    """Runs a trial whose lock is held."""

    trial: TrialSpec
    store: Store
    ledger: Ledger
    device: torch.device
    checkpoint: Checkpoint
    warnings: list[str] = field(default_factory=list)  # about files kept from an earlier training

    def carry_out(
        self,
        done: Result | None,
        missing: Sequence[PlannedProbe],
        take: Opener,
        report: Report,
        *,
        keep: bool,
    ) -> Result:
        """The result, published unless it was `done`, and the findings of the `missing` probes. If a
        probe fails, its exception is raised after everything else is published, and the checkpoint stays."""
        test, train = (take(spec) for spec in self.trial.needs)
        probe_runs = [
            ProbeRun(one.name, one.probe, {n: take(s) for n, s in one.sets.items()}) for one in missing
        ]
        watched = any(planned.probe.watches for planned in missing)
        kept = None if done is None or watched else self._kept(done, train)
        if done is not None and kept is not None:
            check_probe_inputs(probe_runs, self.trial.train, train, test.subset(self.trial.evaluation.limit))
            trained, record, origin = kept, done, "kept weights"
        else:  # the inputs of probes are checked before the training
            trained, record = self._train(train, test, probe_runs, report)
            origin = "training" if done is None else "another training"
            self._keep(trained.model, record, keep=keep, first=done is None)
        failed = []
        for planned, probe_run in zip(missing, probe_runs, strict=True):
            try:
                self._probe(trained, test, planned, probe_run, origin)
            except Exception as error:  # noqa: BLE001  (the result is published whatever a probe raises)
                record["warnings"].append(f"the probe {planned.name!r} failed: {error}")
                error.add_note(f"in the probe {planned.name!r}; the result of the training is kept")
                failed.append(error)
        if done is None:
            record = patiently(lambda: self.ledger.publish(self.trial.key, record))
        if failed:
            raise failed[0]
        if done is not None:
            self.ledger.forget(self.trial.key)  # the failure of a probe
        return done or record

    def _train(
        self, train: Images, test: Images, probe_runs: Sequence[ProbeRun], report: Report
    ) -> tuple[Trained, Result]:
        """Train. If there are probes, the trained state is kept as a checkpoint: probes take long, and
        after a kill or a failure the training need not be repeated."""

        def on_row(row: Metrics) -> None:
            report(row)
            if probe_runs and row["epoch"] >= self.trial.train.epochs:
                self.checkpoint.every = 0.0

        trained, record = self.trial.train_and_evaluate(
            train,
            test,
            device=self.device,
            report=on_row,
            checkpoint=self.checkpoint,
            probe_runs=probe_runs,
            restored=True,
            kept=partial(final_weights, self.store),
        )
        needs = [spec.name for spec in self.trial.needs]
        sets = {spec.name: self._data_record(spec) for spec in self.trial.needs}
        record |= {"data_key": self.trial.training_data.key, "needs": needs, "data_sets": sets}
        return trained, cast(Result, record)

    def _data_record(self, spec: DataSpec) -> DataRecord:
        """The digest of a data set's bytes, and where they were computed: the key alone does not determine
        them."""
        record = self.store.record(spec) or {}
        digest = record.get("files", {}).get("data.arrow", {}).get("sha256")
        return {"sha256": digest, "platform": (record.get("platform") or {}).get("name")}

    def _kept(self, done: Result, train: Images) -> Trained | None:
        """The state of a finished training, if its weights were kept and are intact."""
        spec, seed = self.trial.train, self.trial.seed
        model = spec.network(num_classes=train.num_classes, shape=train.shape, seed=seed)
        if (weights := self._weights(model)) is None:
            return None
        model.load_state_dict(weights)
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = prepared(spec, train, seed=seed, device=self.device, restored=True)
        return Trained(model.eval(), images, done["history"], 0.0)

    def _weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """The kept weights for a network. Damaged ones are moved to quarantine, with a warning, and count
        as not kept."""
        try:
            return kept_weights(self.store, self.trial.key, model)
        except DamagedError as error:
            self.warnings.append(f"the kept weights were damaged ({error}); the trial was trained again")
            quarantine(self.ledger.storage, f"trials/{self.trial.key}/{WEIGHTS}")
            return None

    def _keep(self, model: nn.Module, record: Result, *, keep: bool, first: bool) -> None:
        """Keep the weights, or not. The result and the weights are of the same training: weights from a
        runner that was killed before its result are replaced. A failure to keep them costs no result."""
        try:
            if keep and (first or self._weights(model) is None):
                keep_weights(self.store, self.trial.key, model)
            elif first and not keep:
                self.ledger.storage.remove(f"trials/{self.trial.key}/{WEIGHTS}")
        except OSError as error:
            record["warnings"].append(f"the weights could not be kept: {error}")

    def _probe(
        self,
        trained: Trained,
        test: Images,
        planned: PlannedProbe,
        probe_run: ProbeRun,
        origin: str,
    ) -> None:
        """Run a probe on the network, which comes from `origin`, and publish what it finds."""
        findings = self.trial.run_probes(
            trained.model,
            trained.images,
            test,
            [probe_run],
            device=self.device,
            history=trained.history,
            watched=trained.watched,
        )
        sets = {name: spec.name for name, spec in planned.sets.items()}
        record = {"look": planned.name, "probe": plain(planned.probe), "sets": sets, "of": origin}
        record |= findings[planned.name]
        record |= {"warnings": self.warnings} if self.warnings else {}
        record |= {"environment": environment(), "platform": numerical_platform(self.device).to_json()}
        patiently(lambda: self.ledger.publish_finding(self.trial.key, planned.key, cast(Finding, record)))
