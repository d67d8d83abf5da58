"""Runs a plan on Ray. The only package that imports ray.

A worker pays for the imports of its modules (`worker`, `build`) each time it starts, so nothing is imported
here.
"""

import os

from orchestrator.cluster.token import use_token

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the older output can be silenced; ours is the display
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that outlives a sweep must not start another Ray
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same on the driver and in a trial
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_INIT": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # that a pruned training has to end before its worker is reused
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # writes files that are not needed
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # our own handler also ends the building of data sets
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # snapshots are not needed: a sweep resumes from the ledger
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # trials that may wait for machines: the driver limits them
    "TUNE_WARN_THRESHOLD_S": "30",
}
for _name, _value in SETTINGS.items():  # Ray and Tune read them as they are imported
    os.environ.setdefault(_name, _value)
use_token()
