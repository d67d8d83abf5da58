"""From command to report: a sweep with one training of three seconds, as `opsctl sweep` runs it, and the same training
in a script that calls `ray.init` and `tune.run`, without a plan, a Ray task for the data, MLflow or a report.

    python benchmarks/one_trial.py [--quick]

Each run is a process of its own with an empty store. The phases of opsctl are from one more run, at whose calls a clock
is read.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import record

SWEEP = """
name: one
question: How long does one short training take?
base:
  data: {source: digits}
  train: {architecture: lenet5, epochs: 12, batch_size: 32}
grid: {seed: [0]}
"""

PLAIN = """
import sys
import ray, torch
from ray import tune
from orchestrator.execution.trial import run_trial
from orchestrator.planning.plan import make_plan
from orchestrator.planning.sweep_file import load
from poisons import Store

def train(config):
    done = run_trial(config["trial"], Store(config["store"]), device=torch.device("cpu"))
    tune.report(done["metrics"])

sweep, store = load(sys.argv[1]), sys.argv[2]
(task,) = make_plan(sweep, Store(store), "benchmark").tasks
ray.init("local", include_dashboard=False, log_to_driver=False, configure_logging=False)
tune.run(train, config={"trial": task.trial, "store": store}, verbose=0, storage_path=store + "/tune")
"""

TRACED = """
import sys, time
start, seen = time.time(), []

def mark(what):
    seen.append((what, time.time()))

def around(owner, name, before, after):
    call = getattr(owner, name)
    def traced(*given, **options):
        mark(before) if before else None
        try:
            return call(*given, **options)
        finally:
            mark(after) if after else None
    setattr(owner, name, traced)

from orchestrator.cli import main
import ray
from orchestrator.execution.ray import builders, tune
from orchestrator.execution.scheduler import Scheduler
around(ray, "init", "Python, imports and plan", "start of Ray")
around(tune.Tuning, "suggest", "data sets, in Ray tasks", None)
around(ray, "shutdown", None, "end of Ray")
reported = Scheduler._reported
def hear(self, live, message):
    if "started" in message:
        mark("worker of the training")
    if "ended" in message:
        mark("training")
    reported(self, live, message)
Scheduler._reported = hear
sys.argv[0] = "opsctl"
try:
    main()
finally:
    mark("results in MLflow, and report")
    for what, now in seen:
        print(f"phase {now - start:.2f} {what}", file=sys.stderr)
        start = now
"""


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, the sweep and an empty store."""
    with tempfile.TemporaryDirectory(dir=folder) as store:
        where = {"SWEEP": str(folder / "one.yaml"), "STORE": store}
        given = [where.get(part, part) for part in command]
        env = os.environ | {"RAY_AUTH_MODE": "token"}
        return subprocess.run([sys.executable, *given], env=env, capture_output=True, text=True, check=True)


def main() -> None:
    wanted = record.parser(__doc__, data=False).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "one.yaml").write_text(SWEEP)
        sweep = ["sweep", "SWEEP", "--store", "STORE"]
        sides: list[Callable[[], object]] = [
            partial(run, ["-m", "orchestrator", *sweep], folder),
            partial(run, ["-c", PLAIN, "SWEEP", "STORE"], folder),
        ]
        ours, plain = record.interleave(*sides, 1 if wanted.quick else 5)
        traced = run(["-c", TRACED, *sweep], folder).stderr.splitlines()
    phases = [line.split(maxsplit=2)[1:] for line in traced if line.startswith("phase ")]
    for title, values in (("opsctl", ours), ("script", plain)):
        found = record.spread(values)
        print(f"{title}: {found['median']:.1f} s ({found['min']:.1f}..{found['max']:.1f})")
    for seconds, what in phases:
        print(f"{float(seconds):6.2f} s  {what}")
    if not wanted.quick:
        row = {"opsctl": record.spread(ours), "script": record.spread(plain)}
        record.append("one_trial", row | {"phases": {what: float(seconds) for seconds, what in phases}})


if __name__ == "__main__":
    main()
