"""The MLflow run of a whole sweep, the parent of its trials' runs: its question, size and progress."""

from __future__ import annotations

import hashlib

from mlflow.entities import Metric, Run

from orchestrator.planning.plan import Plan
from orchestrator.tracking.connection import Connection
from orchestrator.tracking.payloads import now
from trainers.printable import as_markdown

ROLE = "opsctl.role"


class Parent:
    """The run of a plan's sweep in an experiment. If several were created at once, the one with the smallest
    id counts."""

    def __init__(self, connection: Connection, experiment: str, plan: Plan) -> None:
        self.connection, self.experiment, self.plan = connection, experiment, plan
        self.status = ""
        self.run_id = self._begin()

    def _begin(self) -> str:
        """Create the run if it is missing, update its tags, and return its id."""
        tags = {
            "opsctl.question": self.plan.sweep.question,
            "opsctl.trials": str(len(self.plan.tasks)),
            "opsctl.grid": " x ".join(self.plan.sweep.grid),
            "opsctl.digest": digest(self.plan),
            "mlflow.note.content": as_markdown(self.plan.sweep.question),
            "mlflow.source.name": "opsctl",
        }
        client = self.connection.client
        if not self._all():
            fixed = {ROLE: "sweep", "opsctl.sweep": self.plan.sweep.name}
            client.create_run(self.experiment, tags={**tags, **fixed}, run_name=self.plan.sweep.name)
        run = self._all()[0]
        self.status = run.info.status
        self.sent = {metric: dict(values) for metric, values in self.connection.values(run).items()}
        for name, value in tags.items():
            if run.data.tags.get(name) != value:
                client.set_tag(run.info.run_id, name, value)
        return str(run.info.run_id)

    def _all(self) -> list[Run]:
        found = self.connection.runs(self.experiment, f"tags.`{ROLE}` = 'sweep'")
        return sorted(found, key=lambda run: str(run.info.run_id))

    def settle(self) -> list[str]:
        """Keep one run, even if another driver created one too. Returns the ids of the deleted ones."""
        first, *others = [str(run.info.run_id) for run in self._all()]
        self.run_id = first
        for run_id in others:
            self.connection.client.delete_run(run_id)
        return others

    def update(self, done: int, failed: int, status: str) -> None:
        """Send the numbers of trials done and failed, and the status, as far as they changed."""
        client = self.connection.client
        counts = {"sweep/trials": len(self.plan.tasks), "sweep/done": done, "sweep/failed": failed}
        step = done + failed
        new = {name: n for name, n in counts.items() if self.sent.get(name, {}).get(step) != n}
        if new:
            self.connection.send(self.run_id, [Metric(name, n, now(), step) for name, n in new.items()])
        for name, n in new.items():
            self.sent.setdefault(name, {})[step] = n
        if status != self.status:
            ended = status != "RUNNING"
            client.set_terminated(self.run_id, status) if ended else client.update_run(self.run_id, status)
            self.status = status


def digest(plan: Plan) -> str:
    """A digest of the keys of a sweep's trials, which does not depend on how its file is written."""
    keys = "".join(sorted(task.key for task in plan.tasks))
    return hashlib.sha256(keys.encode()).hexdigest()[:16]
