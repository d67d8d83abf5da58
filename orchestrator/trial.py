"""One trial: data set, training, evaluation, result. Safe to run twice, by anyone, at any time."""

from __future__ import annotations

import traceback

import torch
from filelock import FileLock

from orchestrator.results import Ledger, Record
from orchestrator.spec import RunSpec, TrialSpec
from poisons import Store, Workshop
from trainers.checkpoint import Checkpoint, write_tensors
from trainers.loop import DivergenceError, Report


def run_trial(
    trial: TrialSpec,
    store: Store,
    *,
    device: torch.device,
    report: Report = lambda _: None,
    run: RunSpec = RunSpec(),  # noqa: B008  (frozen)
) -> Record:
    """The record of the trial, from disk if it is done, else trained and published. `report` is given each
    epoch's row.

    A trial that was killed goes on from its last checkpoint. One that raises leaves its traceback in the
    ledger, and the epochs it had. Two runners of one trial take turns; the second finds it done.
    """
    ledger, key = Ledger(store.root), trial.key
    needs = [spec.name for spec in trial.needs]
    with FileLock(store.root / "locks" / f"trial-{key}.lock"):
        folder = ledger.folder(key)
        checkpoint = Checkpoint(folder / "checkpoint.pt", every=run.checkpoint_seconds)
        if (done := ledger.result(key)) is not None:
            checkpoint.remove()  # a runner may have been killed between its result and this
            return done
        try:
            test, train = (store.ensure(spec, Workshop(device=device)) for spec in trial.needs)
            model, record = trial.run(train, test, device=device, report=report, checkpoint=checkpoint)
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
            history = {"history": list(error.history)} if isinstance(error, DivergenceError) else {}
            ledger.fail(key, told | history | {"needs": needs})
            raise
        record |= {"data_key": trial.data.key, "needs": needs}
        if run.keep == "weights":
            try:
                write_tensors(folder / "weights.pt", model.state_dict())
            except OSError as error:  # the result is worth more than the weights
                record["warnings"].append(f"the weights could not be kept: {error}")
        ledger.publish(key, record)
        checkpoint.remove()
        return {"key": key, **record}
