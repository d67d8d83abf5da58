"""MLflow, as a view of the ledger. The only package that imports mlflow.

One experiment per sweep, with a run for the sweep itself and under it one run per trial; and one experiment
for data sets. A trial's run is known by its tag `opsctl.key`. However drivers die and sweeps overlap:

- A run that is FINISHED is complete. It is written from the ledger, and gets its status last.
- Any other run of a key is a view of a trial on its way. Whoever starts that trial again, or has its result
  to write, resumes it: the same run, RUNNING again, gets the points that it lacks. Only if it holds a number
  that the result does not, or another driver that lives may be writing to it, is it deleted for a new one. A
  driver that finds its run gone begins another, or leaves it at the FINISHED one.
- A point that a run has is not sent to it again: see `points`.
- Of several FINISHED runs of a key the one with the smallest id stays, on which all drivers agree. Whoever
  wrote or deleted one looks again, and writes again if need be: after the last change somebody saw all well.

So sending is safe to repeat, and `Tracker.sync`, which ends every sweep and is `opsctl track`, mends whatever
went wrong before: a trial that is done has one run, complete.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from trainers.lazy import load_from

SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # results are on disk: better to give up early than to wait
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # a line and a request for every run that ends
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
