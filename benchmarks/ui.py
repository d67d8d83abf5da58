"""The MLflow pages of a sweep with 5,000 runs: how long the server takes for what they ask.

    python benchmarks/ui.py [--quick] [--runs N] [--keep DIR]

Runs of invented trials, with a few points each, are written through the tracker into sqlite files, one of 200 runs
and one of all, and asked for through the server that `opsctl ui` starts, as the page of an experiment asks: the
experiment, the first hundred runs in the order of its saved view, the hundred after them, the same under a filter; and
as the page of a run does: the run, and the history of one of its metrics. Every request is a new connection. Each
is measured in wall time and in CPU time of the server, which excludes other processes. Results are added
to benchmarks/results/ui.jsonl, unless the run is quick.
"""

from __future__ import annotations

import json
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil
import record
from tracking import invented, serving

from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.spec import SweepSpec
from orchestrator.tracking import Tracker, page
from poisons import Store

FEW, SHOWN, EPOCHS = 200, 100, 3  # runs to compare with; runs that a page asks for; epochs of each
Request = Callable[[], dict[str, Any]]


def main() -> None:
    """Fills the databases, measures, and prints it."""
    parser = record.parser(__doc__, data=False)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="leave the databases there; full ones are used"
    )
    args = parser.parse_args()
    runs, repeats = (200, 2) if args.quick else (args.runs, 5)
    with tempfile.TemporaryDirectory() as folder:
        counts = dict.fromkeys((FEW, runs))
        row = {f"{n} runs": measure(args.keep or Path(folder), n, repeats) for n in counts}
    for what, value in row.items():
        print(f"{what}: {value}")
    if not args.quick:
        record.append("ui", row)


def measure(folder: Path, runs: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of every request with so many runs there."""
    store, file = Store(folder / "store"), folder / f"{runs}.db"
    tracker = Tracker(f"sqlite:///{file}", planned(store, runs), store)
    there = tracker.copies()
    for task in tracker.plan.tasks:
        if task.key not in there:
            result = invented(task)
            tracker.complete(task, {**result, "history": result["history"][:EPOCHS]})
    with serving(file) as server:
        return {"database, MB": file.stat().st_size / 1e6, "ms": asked(server, tracker, repeats)}


def planned(store: Store, runs: int) -> Plan:
    grid = {
        "data.poison": ["clean", "ops"],
        "train.optimizer.lr": [0.01, 0.02, 0.05, 0.1],
        "seed": list(range(-(-runs // 8))),
    }
    base = {"data": {"limit": 60}, "train": {"architecture": "lenet5", "optimizer": "sgd"}}
    sweep = {"name": "load", "question": "Is it still usable?", "base": base, "grid": grid}
    return make_plan(SweepSpec.parse(sweep, "load"), store, "load")


def asked(server: str, tracker: Tracker, repeats: int) -> dict[str, Any]:
    """Milliseconds of each request, in turn, after one of each."""
    found = requests(server, tracker)
    clock: dict[str, list[float]] = {name: [] for name in found}
    processor: dict[str, list[float]] = {name: [] for name in found}
    for turn in range(repeats + 1):
        for name, request in found.items():
            start, before = time.perf_counter(), used()
            request()
            if turn:
                clock[name].append(1000 * (time.perf_counter() - start))
                processor[name].append(1000 * (used() - before))
    return {
        name: {"clock": record.spread(clock[name]), "processor": record.spread(processor[name])}
        for name in found
    }


def used() -> float:
    """Seconds that the server, our only child, and its own have had on a processor."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(one.user + one.system for one in times)


def requests(server: str, tracker: Tracker) -> dict[str, Request]:
    """What the pages ask, by what it is; each is seen to be answered."""
    state = json.loads(json.loads(page.view(tracker.plan))["state"])
    axis = page.examples(tracker.plan)[0]

    def search(where: str = "", token: str | None = None) -> dict[str, Any]:
        body = {
            "experiment_ids": [tracker.experiment],
            "filter": where,
            "max_results": SHOWN,
            "order_by": [f"{state['orderByKey']} {'ASC' if state['orderByAsc'] else 'DESC'}"],
            "run_view_type": "ACTIVE_ONLY",
            **({"page_token": token} if token else {}),
        }
        answer = ask(server, "runs/search", body=body)
        assert answer["runs"], where
        return answer

    first = search()
    token, run_id = first.get("next_page_token"), first["runs"][0]["info"]["run_id"]
    metric = tracker.plan.sweep.report.metric
    return {
        "the experiment": lambda: ask(server, "experiments/get", experiment_id=tracker.experiment),
        "first 100 runs, best first": search,
        "the next 100": lambda: search(token=token),
        "first 100 of a filter by a tag": lambda: search(axis),
        "a run": lambda: ask(server, "runs/get", run_id=run_id),
        "a metric's history": lambda: ask(server, "metrics/get-history", run_id=run_id, metric_key=metric),
    }


def ask(server: str, what: str, body: dict[str, Any] | None = None, **options: str) -> dict[str, Any]:
    """A request as the pages send it, and its answer."""
    data = None if body is None else json.dumps(body).encode()
    address = f"{server}/ajax-api/2.0/mlflow/{what}?{urlencode(options)}"
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as reply:
        return dict(json.load(reply))


if __name__ == "__main__":
    main()
