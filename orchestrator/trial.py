"""One trial: data set, training, evaluation, result. Safe to run twice, by anyone, at any time."""

from __future__ import annotations

import time
import traceback

import torch
from filelock import FileLock

from orchestrator.results import Ledger, Record
from orchestrator.spec import TrialSpec
from poisons import Store
from trainers import InputError, fit
from trainers.loop import Report, summary
from trainers.provenance import environment
from trainers.spec import plain


def run_trial(
    trial: TrialSpec, store: Store, *, device: torch.device, report: Report = lambda _: None
) -> Record:
    """The record of the trial, from disk if it is done, else trained and published. `report` is given each
    epoch's row.

    A trial that raises leaves its traceback in the ledger. Two runners of one trial take turns; the second
    finds it done.
    """
    ledger, key = Ledger(store.root), trial.key
    with FileLock(store.root / "locks" / f"trial-{key}.lock"):
        if (done := ledger.result(key)) is not None:
            return done
        try:
            record = _train(trial, store, device, report)
        except Exception as error:
            ledger.fail(
                key, {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
            )
            raise
        ledger.publish(key, record)
        return {"key": key, **record}


def _train(trial: TrialSpec, store: Store, device: torch.device, report: Report) -> Record:
    test, train = (store.ensure(spec, device=device) for spec in trial.needs)
    if (train.shape, train.num_classes) != (test.shape, test.num_classes):
        raise InputError(
            f"training images are {train.shape} in {train.num_classes} classes, "
            f"test images {test.shape} in {test.num_classes}; a source's splits must agree"
        )
    start = time.monotonic()
    trained = fit(trial.train, train, test, seed=trial.seed, device=device, report=report)
    return {
        "spec": plain(trial),
        "metrics": summary(trained.history),
        "history": trained.history,
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "seconds": round(time.monotonic() - start, 3),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "data_key": trial.data.key,
        "environment": environment(),
    }
