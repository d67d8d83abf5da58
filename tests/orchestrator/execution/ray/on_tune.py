"""Ray Tune does what it is used for: run as a script, on a cluster of its own, with machines and GPUs that do not
exist."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "disabled"

import ray
from ray.cluster_utils import Cluster
from ray.util.state import list_tasks

from orchestrator.execution.ray import tune
from orchestrator.execution.ray.tune import Tuning
from orchestrator.execution.ray.worker import Reporter, Shared
from orchestrator.execution.scheduler import Event, Over, Reported
from tests.chaos.cluster import free_port
from tests.orchestrator.execution.ray.bundles import bundle, until

PORT = free_port()
DASHBOARD = f"http://127.0.0.1:{PORT}"


def played(config: dict[str, Any], shared: Any) -> None:
    """A worker whose trainings do what their keys say: take so many seconds, or end the process."""
    work, node = config["bundle"], ray.get_runtime_context().get_node_id()
    reporter = Reporter()
    reporter.add({"node": node, "rests": False})
    reporter.send()
    for order in work.orders:
        attempt = order["attempt"]
        reporter.add({"started": attempt})
        reporter.send()
        if order["key"] == "exit":
            os._exit(3)
        end, epoch = time.monotonic() + float(order["key"]), 0
        while time.monotonic() < end:
            time.sleep(0.05)
            epoch += 1
            reporter.epoch(attempt, {"epoch": float(epoch)})
        reporter.add({"ended": attempt, "seconds": 0.0, "record": {"key": str(os.getpid())}})  # type: ignore[typeddict-item]
    reporter.send()


def over(*numbers: int) -> Callable[[list[Event]], bool]:
    return lambda events: {event.bundle for event in events if isinstance(event, Over)} >= set(numbers)


def why(events: list[Event], number: int) -> str:
    (found,) = [event.why for event in events if isinstance(event, Over) and event.bundle == number]
    return found


def messages(events: list[Event], number: int) -> list[Any]:
    reports = [event.messages for event in events if isinstance(event, Reported) and event.bundle == number]
    return [message for report in reports for message in report]


def processes(events: list[Event], number: int) -> set[str]:
    return {message["record"]["key"] for message in messages(events, number) if "record" in message}


def nodes(events: list[Event], number: int) -> list[str]:
    return [message["node"] for message in messages(events, number) if "node" in message]


def a_worker_is_reused_and_trainings_are_reported_one_by_one(tuning: Tuning) -> None:
    tuning.more = True
    tuning.suggest(bundle(1, "0.1", "0.1", "0.1", cpus=2))
    first = until(tuning, over(1))
    assert [next(iter(message)) for message in messages(first, 1) if "rows" not in message] == [
        "node", *["started", "ended"] * 3,
    ]  # fmt: skip
    tuning.suggest(bundle(2, "0.1", cpus=2))
    second = until(tuning, over(2))
    assert processes(first, 1) == processes(second, 2) != set()
    assert why(first, 1) == why(second, 2) == ""


def a_dead_process_loses_only_its_bundle(tuning: Tuning) -> None:
    tuning.suggest(bundle(11, "exit", "0.1"))
    tuning.suggest(bundle(12, "6"))
    events = until(tuning, over(11, 12))
    assert "died" in why(events, 11)
    assert why(events, 12) == ""
    assert len(processes(events, 12)) == 1


def a_pruned_training_ends_at_its_next_report(tuning: Tuning) -> None:
    tuning.suggest(bundle(21, "60"))
    until(tuning, lambda events: bool(messages(events, 21)))
    tuning.stopping.add(2100)
    start = time.monotonic()
    events = until(tuning, over(21))
    assert why(events, 21) == ""
    assert not processes(events, 21)
    assert time.monotonic() - start < 10


def a_machine_is_avoided(tuning: Tuning) -> None:
    ids = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    for number, (bad, good) in enumerate((ids, ids[::-1]), 31):
        tuning.suggest(bundle(number, "0.1", avoid=frozenset([bad])))
        assert nodes(until(tuning, over(number)), number) == [good]


def a_bundle_that_no_machine_can_take_is_withdrawn(tuning: Tuning) -> None:
    everywhere = frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])
    tuning.suggest(bundle(35, "0.1", avoid=everywhere))
    time.sleep(2)
    assert list(tuning.events()) == []
    tuning.withdrawn.add(35)
    assert why(until(tuning, over(35)), 35) == ""
    tuning.suggest(bundle(36, "0.1"))
    assert processes(until(tuning, over(36)), 36)


def a_bundle_does_not_begin_while_a_builder_waits(tuning: Tuning) -> None:
    tuning.held = frozenset(["gpus"])
    tuning.suggest(bundle(41, "0.1", gpus=0.5))
    tuning.suggest(bundle(42, "0.1"))
    events = until(tuning, over(41, 42))
    assert not processes(events, 41)
    assert processes(events, 42)
    tuning.held = frozenset()


def a_bundle_on_a_gpu_ends_between_two_trainings_when_a_builder_waits(tuning: Tuning) -> None:
    tuning.suggest(bundle(45, "1", "30", gpus=0.5))
    tuning.suggest(bundle(46, "1", "1"))
    begun = until(tuning, lambda events: any("started" in message for message in messages(events, 45)))
    tuning.held = frozenset(["gpus"])
    events = [*begun, *until(tuning, over(45, 46))]
    ended = {number: [m for m in messages(events, number) if "ended" in m] for number in (45, 46)}
    assert (len(ended[45]), len(ended[46])) == (1, 2)
    assert why(events, 45) == ""
    tuning.held = frozenset()


def resources_are_free_when_nothing_is_left(tuning: Tuning) -> None:
    tuning.suggest(bundle(51, "0.1", gpus=1.0))
    until(tuning, over(51))
    tuning.more = False
    end = time.monotonic() + 20
    while ray.available_resources().get("GPU") != 2.0 or ray.available_resources()["CPU"] != 4.0:
        assert time.monotonic() < end, ray.available_resources()
        time.sleep(0.1)


def the_running_calls_have_the_names_of_trials(tuning: Tuning) -> None:
    """In Ray's state API, from which `ray list tasks` and the dashboard take them."""
    tuning.suggest(bundle(61, "8"))
    until(tuning, lambda events: bool(messages(events, 61)))
    end, names = time.monotonic() + 8, set[str]()
    while "point 61" not in names:
        assert time.monotonic() < end, names
        time.sleep(0.5)
        names = {task.name for task in list_tasks(address=DASHBOARD, filters=[("state", "=", "RUNNING")])}
    until(tuning, over(61))


def it_ends_at_once_although_a_training_goes_on(tuning: Tuning) -> None:
    """The last check: by itself, Tune would wait for the worker."""
    tuning.suggest(bundle(71, "60"))
    until(tuning, lambda events: bool(messages(events, 71)))
    start = time.monotonic()
    tuning.__exit__(None, None, None)
    assert tuning._thread is not None
    assert not tuning._thread.is_alive()
    assert time.monotonic() - start < 5


CHECKS = (
    a_worker_is_reused_and_trainings_are_reported_one_by_one,
    a_dead_process_loses_only_its_bundle,
    a_pruned_training_ends_at_its_next_report,
    a_machine_is_avoided,
    a_bundle_that_no_machine_can_take_is_withdrawn,
    a_bundle_does_not_begin_while_a_builder_waits,
    a_bundle_on_a_gpu_ends_between_two_trainings_when_a_builder_waits,
    resources_are_free_when_nothing_is_left,
    the_running_calls_have_the_names_of_trials,
    it_ends_at_once_although_a_training_goes_on,
)


def main() -> None:
    tune.train = played
    head = {"num_cpus": 2, "num_gpus": 1, "include_dashboard": True, "dashboard_port": PORT}
    machines = Cluster(initialize_head=True, head_node_args=head)
    machines.add_node(num_cpus=2, num_gpus=1)
    ray.init(address=machines.address, log_to_driver=False, configure_logging=False, namespace="opsctl")
    with tempfile.TemporaryDirectory() as folder, Tuning(Shared("", "", "{}", None), Path(folder)) as tuning:  # type: ignore[arg-type]
        for check in CHECKS:
            check(tuning)
            print(check.__name__, flush=True)
    ray.shutdown()
    machines.shutdown()


if __name__ == "__main__":
    main()
