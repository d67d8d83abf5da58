"""The run of a sweep as a whole, above those of its trials: its question, its size, how far it is."""

from __future__ import annotations

import hashlib

from mlflow.entities import Metric, Run

from orchestrator.planning.plan import Plan
from orchestrator.tracking.connection import Connection
from orchestrator.tracking.payloads import now
from trainers.printable import as_markdown

ROLE = "opsctl.role"


class Parent:
    """The run of a plan's sweep in an experiment. Of several, begun at once, the smallest id is it."""

    def __init__(self, connection: Connection, experiment: str, plan: Plan) -> None:
        self.connection, self.experiment, self.plan = connection, experiment, plan
        self.status = ""
        self.run_id = self._begin()

    def _begin(self) -> str:
        """Its id; it is made if it is not there, and told what the sweep is now."""
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
        """Have one of them, whoever else began one meanwhile; returns the ids of the others."""
        first, *others = [str(run.info.run_id) for run in self._all()]
        self.run_id = first
        for run_id in others:
            self.connection.client.delete_run(run_id)
        return others

    def tell(self, done: int, failed: int, status: str) -> None:
        """How many trials are done and failed; the same again is not sent."""
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
    """What the sweep holds, whatever its file looks like: a digest of the keys of its trials."""
    keys = "".join(sorted(task.key for task in plan.tasks))
    return hashlib.sha256(keys.encode()).hexdigest()[:16]
