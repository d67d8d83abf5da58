"""`opsctl` with workers that also record what they do: `python -m tests.chaos.driver sweep FILE`.

The function that workers run is an argument of `run_plan`; the command line uses the default.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from orchestrator import cli
from orchestrator.execution.ray import run
from tests.chaos.record import Recorded

FILE, WHO = "OPSCTL_TEST_DIARY", "OPSCTL_TEST_WHO"

if __name__ == "__main__":
    work = Recorded(Path(os.environ[FILE]), os.environ.get(WHO, ""))
    run.run_plan = partial(run.run_plan, work=work)
    cli.main()
