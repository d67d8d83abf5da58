"""Submitted sweeps run on a cluster as they do locally, followed or not; an error is one clear line."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from orchestrator import cli
from orchestrator.cluster import submit
from orchestrator.storage.heartbeats import live_heartbeats
from orchestrator.storage.ledger import Ledger
from tests.cluster.cable import Cable
from tests.cluster.heads import TOKEN, Head, free_ports, ray_head
from tests.conftest import Opsctl, finish, start
from tests.orchestrator.sweeps import TRAIN, tiny, write
from trainers import InputError

TOKENS = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
WRONG = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64}
NONE = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "/nonexistent/token"}
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)
ON_CPU = ("--gpus-per-trial", "0")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(cpus=2) as running:
        yield running


def send(file: Path, head: Head, *options: object, store: Path, **env: str) -> subprocess.Popen[str]:
    return start(
        "submit", file, "--address", head.dashboard, *ON_CPU, *options, store=store, **(TOKENS | env)
    )


def results(store: Path) -> list[Path]:
    return list((store / "trials").glob("*/result.json"))


@pytest.mark.cluster
@pytest.mark.slow
def test_a_sweep_runs_on_the_cluster_and_is_followed_to_its_end(tmp_path: Path, head: Head) -> None:
    store, file = tmp_path / "a store", write(tmp_path, tiny(grid={"seed": [0, 1, 2]}))
    code, out = finish(send(file, head, "--set", "seed=[0, 1]", store=store))
    assert code == 0, out
    assert len(results(store)) == 2, "options are passed on, even with spaces"
    assert re.search(r"trial +2/2", out), "the output is shown here"
    assert len(re.findall(r"trial +1/2", out)) == 1, "and only once"
    assert "Does it run?" in out


@pytest.mark.cluster
@pytest.mark.slow
def test_it_ends_with_the_exit_code_of_the_sweep(tmp_path: Path, head: Head) -> None:
    failing = tiny(grid={"train.optimizer.lr": [1e9]})
    failing["base"]["train"] = {**failing["base"].get("train", TRAIN), "optimizer": "sgd"}
    code, out = finish(
        send(write(tmp_path, failing), head, "--set", "run.retries=0", store=tmp_path / "store")
    )
    assert code == 1, out
    assert "1 of 1 trials failed" in out


@pytest.mark.cluster
@pytest.mark.slow
def test_the_job_continues_after_the_client_ends(tmp_path: Path, head: Head) -> None:
    seeds = [0, 1, 2, 3]  # enough for the sweep to outlast the interrupt
    store, file = tmp_path / "store", write(tmp_path, tiny(grid={"seed": seeds}))
    watching = send(file, head, store=store)
    assert watching.stdout is not None
    lines = []
    for line in watching.stdout:
        lines.append(line)
        if "Running entrypoint" in line:
            break
    watching.send_signal(signal.SIGINT)
    code, rest = finish(watching, seconds=60)
    out = "".join(lines) + rest
    assert code == 0, out
    assert "keeps running" in out
    assert "Traceback" not in out
    assert "opsctl status" in out
    assert "opsctl stop" in out
    end = time.monotonic() + 240
    while len(results(store)) < len(seeds):
        assert time.monotonic() < end, "the sweep ended with its client"
        time.sleep(1)


@pytest.mark.cluster
@pytest.mark.slow
def test_no_follow_returns_at_once(tmp_path: Path, head: Head) -> None:
    refused = ("--set", "run.cpus_per_trial=99")  # so that it does not run during the next test
    code, out = finish(send(write(tmp_path, tiny()), head, "--no-follow", *refused, store=tmp_path / "store"))
    assert code == 0, out
    assert re.search(r"^tiny-[0-9a-f]{8} runs on the cluster", out, re.MULTILINE)
    assert "Running entrypoint" not in out


@pytest.fixture
def cable(head: Head, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cable]:
    """A connection for all requests to the dashboard, which are retried soon if they get no answer."""
    from orchestrator.execution.ray import jobs

    for name, value in TOKENS.items():
        monkeypatch.setenv(name, value)
    for name in ("QUIET_SECONDS", "ANSWER_SECONDS"):
        monkeypatch.setattr(jobs, name, 1.0)
    cable = Cable(head.dashboard)
    yield cable
    cable.close()


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("fault", [Cable.pull, Cable.die], ids=["pulled", "dead and still in"])
def test_a_broken_connection_repeats_and_loses_no_line_of_the_log(
    head: Head, cable: Cable, fault: Callable[[Cable], None]
) -> None:
    from orchestrator.execution.ray.jobs import Jobs

    counts = "import time\nfor i in range(30): print(f'<{i}>', flush=True); time.sleep(0.4)"
    job = Jobs(head.dashboard)._client.submit_job(entrypoint=shlex.join(["python", "-c", counts]))
    received: list[str] = []

    def break_it() -> None:
        while "<3>" not in "".join(received):
            time.sleep(0.1)
        fault(cable)
        time.sleep(4)
        cable.mend()

    breaking = threading.Thread(target=break_it, daemon=True)
    breaking.start()
    assert Jobs(cable.address).follow(job, received.append) == 0
    assert not breaking.is_alive()
    assert re.findall(r"^<(\d+)>$", "".join(received), re.MULTILINE) == [str(i) for i in range(30)]


@pytest.mark.cluster
@pytest.mark.slow
def test_a_lost_connection_is_not_reported_as_a_failed_trial(
    tmp_path: Path, head: Head, cable: Cable, opsctl: Opsctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.execution.ray import jobs

    monkeypatch.setattr(jobs, "LOST_SECONDS", 3.0)
    copy = jobs.Log.copy

    async def pulled(log: jobs.Log, chunks: AsyncIterator[str]) -> None:
        cable.pull()
        await copy(log, chunks)

    monkeypatch.setattr(jobs.Log, "copy", pulled)
    file = write(tmp_path, tiny(grid={"seed": [0]}))
    code, out, err = opsctl(
        *("submit", file, "--address", cable.address, "--set", "run.cpus_per_trial=99", *ON_CPU)
    )
    assert code == 3, out + err
    assert re.search(r"no longer answers .*; tiny-[0-9a-f]{8} continues on the cluster", err)


@pytest.mark.cluster
@pytest.mark.slow
def test_a_killed_driver_is_restarted(tmp_path: Path, head: Head) -> None:
    store = tmp_path / "store"
    long = {**TRAIN, "epochs": 60}
    sweep = tiny(base={"data": {"limit": 300}, "train": long}, grid={"seed": [0, 1, 2]})
    sent = send(write(tmp_path, sweep), head, store=store)
    end = time.monotonic() + 240
    while not results(store):
        assert time.monotonic() < end
        time.sleep(0.2)
    (heartbeat,) = live_heartbeats(Ledger(store).storage)
    os.kill(heartbeat["pid"], signal.SIGKILL)
    code, out = finish(sent)
    assert code == 0, out
    assert "the sweep was killed by SIGKILL; it is restarted in 10 s" in out
    assert len(results(store)) == 3
    assert live_heartbeats(Ledger(store).storage) == []


def test_a_log_sent_again_from_the_start_is_written_once() -> None:
    from orchestrator.execution.ray.jobs import Log

    async def chunks(*texts: str, ends: bool = True) -> AsyncIterator[str]:
        for text in texts:
            yield text
        if not ends:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    received: list[str] = []
    log = Log(received.append)
    for texts in (("one\n", "two"), (), ("one\ntw", "o\nthree\n")):
        with pytest.raises(RuntimeError):
            asyncio.run(log.copy(chunks(*texts, ends=False)))
    asyncio.run(log.copy(chunks("o", "ne\ntwo\nthree\nfo", "ur\n")))
    assert received == ["one\n", "two", "\nthree\n", "fo", "ur\n"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "says"),
    [
        (NONE, "requires a token: put the one that it was started with into /nonexistent/token"),
        (WRONG, "refuses the token in RAY_AUTH_TOKEN"),
    ],
)
def test_a_missing_or_wrong_token_is_one_error(
    tmp_path: Path, head: Head, env: dict[str, str], says: str
) -> None:
    words = ("submit", write(tmp_path, tiny()), "--address", head.dashboard)
    code, out = finish(start(*words, store=tmp_path / "store", **env), seconds=60)
    assert code == 2, out
    assert says in out
    assert len(out.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "message",
    [
        "/usr/bin/python: Error while finding module specification for 'orchestrator.cluster.supervisor' "
        "(ModuleNotFoundError: No module named 'orchestrator')",
        "/usr/bin/python: No module named orchestrator.cluster.supervisor",
        "/bin/sh: 1: python: not found",
    ],
)
def test_a_head_without_opsctl_is_an_error(message: str) -> None:
    from ray.job_submission import JobDetails, JobStatus

    from orchestrator.execution.ray import jobs

    ended = JobDetails(
        type="SUBMISSION",
        entrypoint="python -m orchestrator sweep tiny.yaml",
        status=JobStatus.FAILED,
        message=f"Job entrypoint command failed with exit code 1, last available logs:\n{message}",
        driver_exit_code=1,
    )
    with pytest.raises(InputError, match="the python that Ray's head finds has no opsctl"):
        jobs._exit_code("tiny-1", ended)


@pytest.mark.slow
def test_a_missing_dashboard_is_one_error(tmp_path: Path, head: Head, opsctl: Opsctl) -> None:
    file = write(tmp_path, tiny())
    for address, says in (
        (f"http://127.0.0.1:{free_ports(1)[0]}", "no Ray dashboard answers at http://127.0.0.1"),
        (f"http://{head.address}", "is no Ray dashboard"),
        ("auto", "auto is no address of a Ray dashboard"),
        ("ray://127.0.0.1:10001", "is no address of a Ray dashboard"),
    ):
        code, _, err = opsctl("submit", file, "--address", address)
        assert code == 2
        assert says in err
        assert len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.execution.ray import jobs

    monkeypatch.setattr(jobs, "ANSWER_SECONDS", 0.5)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(InputError, match="no Ray dashboard"),
    ):
        jobs.Jobs(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_an_invalid_sweep_is_not_submitted(tmp_path: Path, opsctl: Opsctl) -> None:
    file = write(tmp_path, tiny(grid={"train.epoch": [1]}))
    code, _, err = opsctl("submit", file, "--store", "/shared/store")
    assert code == 2
    assert "train.epoch" in err


@pytest.mark.parametrize("store", ["opsctl-store", "./here", "~/store"])
def test_a_store_unreachable_from_the_cluster_is_refused(tmp_path: Path, opsctl: Opsctl, store: str) -> None:
    code, _, err = opsctl("submit", write(tmp_path, tiny()), "--store", store)
    assert code == 2
    assert f"--store {store} is a folder of this machine" in err
    assert "s3://bucket/opsctl" in err


@pytest.mark.parametrize("store", ["/shared/store", "file:///shared/store", "s3://bucket/opsctl"])
def test_a_store_reachable_from_the_cluster_is_accepted(store: str) -> None:
    submit.check_store(store)


def test_a_password_is_not_submitted(tmp_path: Path) -> None:
    file = write(tmp_path, tiny())
    uri = "postgresql://me:hunter2@db/mlflow"
    with pytest.raises(InputError, match="--tracking-uri holds a password") as error:
        submit.prepare(file, store="/shared", settings=[], tracking_uri=uri)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "uri", ["sqlite:///mlflow.db", "sqlite:////home/me/mlflow.db", "file:///tmp/runs", "mlruns", "./mlruns"]
)
def test_a_tracking_file_of_this_machine_is_refused(
    tmp_path: Path, opsctl: Opsctl, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("OPSCTL_TRACKING_URI", uri)  # as in a shell that also runs local sweeps
    code, _, err = opsctl("submit", write(tmp_path, tiny()), "--store", "/shared/store")
    assert code == 2
    assert f"--tracking-uri {uri} (or OPSCTL_TRACKING_URI) is a file of this machine" in err
    assert "http://server:5000" in err


@pytest.mark.parametrize("uri", ["http://db:5000", "https://db", "postgresql://me@db/mlflow"])
def test_a_tracking_server_is_accepted(uri: str) -> None:
    submit.check_tracking(uri)


def test_the_job_has_the_options_of_the_command(tmp_path: Path) -> None:
    name, options = submit.prepare(
        write(tmp_path, tiny()),
        store="s3://b/o",
        settings=["seed=[0, 1]"],
        tracking_uri="http://db:5000",
        tracking_wait=3,
    )
    assert name == "tiny"
    assert options == [
        *("--store", "s3://b/o", "--address", "auto", "--tracking-wait", "3"),
        *("--tracking-uri", "http://db:5000", "--set", "seed=[0, 1]"),
    ]


def test_submit_has_the_options_of_sweep() -> None:
    ours, theirs = (set(inspect.signature(one).parameters) for one in (cli.sweeps.submit, cli.sweeps.sweep))
    assert theirs - ours == {"dry_run"}, "opsctl plan shows the cost"
    assert ours - theirs == {"follow"}
