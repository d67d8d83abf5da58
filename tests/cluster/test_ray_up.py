"""A whole cluster as a user runs it: `ray up`, a tunnel, `opsctl submit`, `ray down`, on three hosts.

They are namespaces of this machine. What differs from cluster/local.yaml: addresses, the user, the token's
file, one processor a host, and no installation, since hosts see this machine's files. Its numbers are those of
trials that run alone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from orchestrator.planning.plan import make_plan
from orchestrator.planning.sweep_file import load
from poisons import Store
from tests.chaos.witness import compare
from tests.cluster.heads import free_ports
from tests.cluster.hosts import SHARED, Hosts, lacking
from tests.conftest import ROOT, start

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(lacking() is not None, reason=f"hosts cannot be made here: {lacking()}"),
]
RAY = str(Path(sys.executable).with_name("ray"))
TOKEN = "c" * 64
NAMES = ("head", "one", "two")
SMALL = (
    "data.poison={clean: clean, ops: ops}",
    "train={lenet5: {architecture: lenet5, epochs: 2}}",
    "seed=[0, 1]",
)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    shared = tmp_path / "shared"
    shared.mkdir()
    with Hosts(*NAMES, folder=tmp_path / "hosts", shared=shared) as running:
        for name in NAMES:
            done = running.run(name, f"mkdir -p ~/opsctl && ln -s {Path(sys.prefix)} ~/opsctl/.venv")
            assert done.returncode == 0, done.stderr
        yield running


def config_for(hosts: Hosts, folder: Path) -> Path:
    """cluster/local.yaml for these hosts."""
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(TOKEN)
    config = yaml.safe_load((ROOT / "cluster" / "local.yaml").read_text())
    config["cluster_name"] = f"test-{hosts.id}"
    config["provider"] |= {
        "head_ip": hosts.address["head"],
        "worker_ips": [hosts.address[name] for name in NAMES if name != "head"],
    }
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(hosts.key)}
    config["file_mounts"]["~/.ray/auth_token"] = str(folder / "token")
    config["setup_commands"] = [one for one in config["setup_commands"] if "python" not in one]
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        small = [
            one.replace("--object-store-memory=500000000", "--object-store-memory=80000000 --num-cpus=1")
            for one in config[name]
        ]
        assert small != config[name]
        config[name] = small
    file = folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def launcher(*command: object, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """Run Ray's launcher from the repository's root, with the autoscaler that includes every machine."""
    env = {
        **os.environ,
        "RAY_UP_enable_autoscaler_v2": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
    }
    return subprocess.run(
        [*map(str, command)],
        env=env | {"RAY_USAGE_STATS_ENABLED": "0"},
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@contextmanager
def tunnel(hosts: Hosts) -> Iterator[str]:
    """An address of this machine for the head's dashboard, which only the head can reach."""
    (port,) = free_ports(1)
    process = subprocess.Popen(hosts.ssh("head", options=["-N", "-L", f"{port}:127.0.0.1:8265"]))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def until(true: Callable[[], bool], *, seconds: float, what: str) -> float:
    """Wait until `true` is; the seconds it took."""
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(2)
    return time.monotonic() - begin


def cpus(hosts: Hosts) -> str:
    status = hosts.run("head", "RAY_AUTH_MODE=token ~/opsctl/.venv/bin/ray status", seconds=60).stdout
    found = re.search(r"[\d.]+/([\d.]+) CPU", status)
    return found[1] if found else ""


def test_a_sweep_runs_on_a_cluster_from_ray_up_to_ray_down(hosts: Hosts, tmp_path: Path) -> None:
    file = config_for(hosts, tmp_path)
    begin = time.monotonic()
    up = launcher(RAY, "up", "-y", "--no-config-cache", file)
    assert up.returncode == 0, up.stdout + up.stderr
    print(f"ray up: {time.monotonic() - begin:.0f} s")
    try:
        joined = until(lambda: cpus(hosts) == "3.0", seconds=300, what="every host has joined")
        print(f"workers joined {joined:.0f} s later")
        listening = hosts.run("head", "ss -ltnH 'sport = :8265'").stdout
        assert listening.split()[3] == "127.0.0.1:8265"
        assert hosts.run("two", "stat -c %a ~/.ray/auth_token").stdout.strip() == "600"

        store, settings = SHARED / "store", [part for one in SMALL for part in ("--set", one)]
        with tunnel(hosts) as dashboard:
            until(lambda: reachable(dashboard), seconds=30, what="the tunnel is open")
            begin = time.monotonic()
            sent = start(
                *(
                    "submit",
                    "sweeps/quickstart.yaml",
                    "--address",
                    dashboard,
                    "--gpus-per-trial",
                    "0",
                    *settings,
                ),
                store=store,
                RAY_AUTH_MODE="token",
                RAY_AUTH_TOKEN=TOKEN,
            )
            out, _ = sent.communicate(timeout=480)
        print(f"sweep: {time.monotonic() - begin:.0f} s\n{out}")
        assert sent.returncode == 0, out
        there, file_there = Store(hosts.shared / "store"), ROOT / "sweeps" / "quickstart.yaml"
        plan = make_plan(load(file_there, SMALL), there, str(file_there))
        assert len(plan.tasks) == 4
        compare(plan, there.where, tmp_path / "alone")
    finally:
        down = launcher(sys.executable, "cluster/down.py", file)
    assert down.returncode == 0, down.stdout + down.stderr
    gone = until(
        lambda: not any(hosts.processes(name) for name in NAMES),
        seconds=60,
        what="no process of Ray is left",
    )
    print(f"nothing left {gone:.0f} s after the end")


def reachable(url: str) -> bool:
    from orchestrator.cluster.host import check_listening

    try:
        check_listening(url.removeprefix("http://"))
    except OSError:
        return False
    return True
