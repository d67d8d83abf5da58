"""MLflow, as a view of the ledger. The only package that imports mlflow.

One experiment per sweep, with a run for the sweep itself and one child run per trial; and one experiment for
data sets. The tag `opsctl.key` identifies a trial's run. These rules hold even if drivers are killed and
sweeps overlap:

- A FINISHED run is complete. It is written from the ledger, and its status is set last.
- Any other run of a key shows an unfinished trial. A driver that starts the trial again, or has its result,
  resumes the run: its status becomes RUNNING, and the missing points are added. It is deleted and replaced
  only if it holds a number that the result does not, or if another live driver may be writing to it. A driver
  that finds its run deleted starts a new one, unless there is a FINISHED one.
- A point that a run already has is not sent to it again: see `points`.
- Of several FINISHED runs of a key, all drivers keep the one with the smallest id. A driver that wrote or
  deleted a run checks again, and writes again if necessary, until a check finds nothing to change.

So sending is idempotent. `Tracker.sync`, which runs at the end of every sweep and in `opsctl track`, repairs
earlier failures: every finished trial then has exactly one complete run.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trainers.lazy import load_from

SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # give up early: the results are on disk
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # else it costs a line and a request per run
}
for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)

if TYPE_CHECKING:
    from orchestrator.tracking.connection import TROUBLE, Connection, default_uri
    from orchestrator.tracking.links import Link
    from orchestrator.tracking.live import LiveTracker
    from orchestrator.tracking.tracker import KEY, Tracker

MODULES = {
    "KEY": "tracker",
    "TROUBLE": "connection",
    "Connection": "connection",
    "Link": "links",
    "LiveTracker": "live",
    "Tracker": "tracker",
    "default_uri": "connection",
}
__all__ = [
    "KEY",
    "TROUBLE",
    "Connection",
    "Link",
    "LiveTracker",
    "Tracker",
    "default_uri",
]
__getattr__ = load_from(__name__, MODULES)
