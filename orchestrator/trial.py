"""One trial: data set, training, evaluation, result. Safe to run twice, by anyone, at any time."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from filelock import FileLock

from orchestrator.depots.results import Ledger, Record
from orchestrator.depots.trial_files import keep_weights, trial_checkpoint
from orchestrator.spec import RunSpec, TrialSpec
from poisons import DataSpec, Store, Workshop
from trainers import Images
from trainers.loop import Report

PAUSES = (1, 2, 4, 8, 16, 32, 60)  # seconds before the next attempt to publish, on a disk that is full
Opener = Callable[[DataSpec], Images]


def run_trial(
    trial: TrialSpec,
    store: Store,
    *,
    device: torch.device,
    report: Report = lambda _: None,
    run: RunSpec = RunSpec(),  # noqa: B008  (frozen)
    images: Opener | None = None,
) -> Record:
    """The record of the trial, from the ledger if it is done, else trained and published. `report` is given
    each epoch's row; `images` opens a data set (default: the store does, and builds it if need be).

    A trial that was killed goes on from its last checkpoint. Two runners of one trial on one machine take
    turns; the second finds it done.
    """
    ledger, key = Ledger(store.where), trial.key
    take = images or (lambda spec: store.ensure(spec, Workshop(device=device)))
    with FileLock(store.root / "locks" / f"trial-{key}.lock"):
        checkpoint = trial_checkpoint(store, key, every=run.checkpoint_seconds)
        if (done := ledger.result(key)) is not None:
            checkpoint.remove()  # a runner may have been killed between its result and this
            return done
        test, train = (take(spec) for spec in trial.needs)
        model, record = trial.run(train, test, device=device, report=report, checkpoint=checkpoint)
        record |= {"data_key": trial.data.key, "needs": [spec.name for spec in trial.needs]}
        if run.keep == "weights":
            try:
                keep_weights(store, key, model)
            except OSError as error:  # the result is worth more than the weights
                record["warnings"].append(f"the weights could not be kept: {error}")
        _publish(ledger, key, record)
        checkpoint.remove()
        return {"key": key, **record}


def _publish(ledger: Ledger, key: str, record: Record) -> None:
    """Put a result in the ledger. It cost hours: a full disk, or a server that is away, is waited for."""
    for pause in PAUSES:
        try:
            return ledger.publish(key, record)
        except OSError:
            time.sleep(pause)
    ledger.publish(key, record)
