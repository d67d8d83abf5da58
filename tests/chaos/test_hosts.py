"""Machines with networks of their own: a cable is pulled, the power fails, and no trial is lost or run twice.

Needs root, for network namespaces; `make chaos` runs it.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.chaos.witness import as_if_alone, nothing_left, sweep
from tests.cluster.hosts import SHARED, Hosts, lacking
from tests.conftest import ROOT
from tests.orchestrator.sweeps import write

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.skipif(lacking() is not None, reason=f"hosts cannot be made here: {lacking()}"),
]
RAY = str(Path(sys.executable).with_name("ray"))
ENV = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "d" * 64,
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
    "RAY_health_check_initial_delay_ms": "2000",  # a machine that is out of reach is noticed within seconds,
    "RAY_health_check_period_ms": "1000",  # not within a minute
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
SEEDS = 8


def on(hosts: Hosts, name: str, *command: str, seconds: float = 120) -> CompletedProcess[str]:
    settings = " ".join(f"{key}={value}" for key, value in ENV.items())
    return hosts.run(name, f"cd {ROOT} && {settings} {shlex.join(command)}", seconds=seconds)


def join(hosts: Hosts, name: str, *options: str) -> None:
    """Start Ray on a host."""
    small = ["--object-store-memory=80000000", "--disable-usage-stats"]
    done = on(hosts, name, RAY, "start", *options, *small)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    shared = tmp_path / "shared"
    shared.mkdir()
    write(shared, sweep(SEEDS))
    with Hosts("head", "one", "two", folder=tmp_path / "hosts", shared=shared) as running:
        join(running, "head", "--head", "--num-cpus=0", "--port=6379", "--include-dashboard=false")
        for name in ("one", "two"):
            join(running, name, "--num-cpus=1", f"--address={running.address['head']}:6379")
        yield running


def results(hosts: Hosts) -> int:
    return len(list((hosts.shared / "store" / "trials").glob("*/result.json")))


def until(hosts: Hosts, count: int, driver: Future[CompletedProcess[str]]) -> None:
    """Wait for so many results."""
    end = time.monotonic() + 240
    while results(hosts) < count and not driver.done():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_cut_cables_and_lost_power(hosts: Hosts, tmp_path: Path) -> None:
    address = f"{hosts.address['head']}:6379"
    command = [sys.executable, "-m", "orchestrator", "sweep", f"{SHARED}/chaos.yaml"]
    options = ["--store", f"{SHARED}/store", "--address", address]
    with ThreadPoolExecutor(1) as pool:
        driver = pool.submit(on, hosts, "head", *command, *options, seconds=900)
        until(hosts, 2, driver)
        hosts.cut("one")  # for a moment: nobody need notice
        time.sleep(2)
        hosts.mend("one")
        until(hosts, 5, driver)
        hosts.cut("one")  # until it is given up
        time.sleep(25)
        hosts.mend("one")
        on(hosts, "one", RAY, "stop", "--force")
        join(hosts, "one", "--num-cpus=1", f"--address={address}")
        until(hosts, 12, driver)
        hosts.kill("two")  # the power
        time.sleep(5)
        hosts.boot("two")
        join(hosts, "two", "--num-cpus=1", f"--address={address}")
        done = driver.result()
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout
    assert "is tried again" in told, told
    as_if_alone(sweep(SEEDS), hosts.shared / "store", tmp_path / "alone")
    nothing_left(hosts.shared / "store")
