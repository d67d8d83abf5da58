"""The connection to Ray: to an existing cluster, or to a new one on this machine."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from ray._private import ray_constants
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError

from orchestrator.cluster.autoscaling import promised
from orchestrator.cluster.host import check_listening, scratch
from orchestrator.cluster.token import find_token, make_private_token
from orchestrator.execution.requests import Capacity, Request
from trainers import InputError
from trainers.numerical_platform import check_pinned_isa, isa_environment

LONGEST_FOLDER = 22  # most characters in the path of the folder that contains Ray's
POLL_SECONDS = 0.2  # between two looks at which machines are alive
JOIN_SECONDS = 30.0  # how long to wait for the first machine to join the head of a new cluster


@dataclass
class Cluster:
    """The resources of a cluster. `coming` has those of all machines that it may grow to."""

    coming: tuple[dict[str, float], ...] = ()
    _alive: dict[str, dict[str, float]] = field(default_factory=dict)
    _polled: float = -math.inf

    def alive(self) -> dict[str, dict[str, float]]:
        """The resources of the machines that are alive, by id; up to POLL_SECONDS old."""
        if time.monotonic() - self._polled > POLL_SECONDS:
            self._alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
            self._polled = time.monotonic()
        return self._alive

    def fitting(self, request: Request) -> list[str]:
        """The ids of the machines that are alive and could meet a request if nothing else ran there."""
        return [
            machine
            for machine, has in self.alive().items()
            if has.get("CPU", 0.0) >= request.cpus and has.get("GPU", 0.0) >= request.gpus
        ]

    def machines(self) -> list[dict[str, float]]:
        """The resources of every machine: of all that the cluster may grow to, or else of those that are
        alive."""
        return list(self.coming) or list(self.alive().values())

    def most(self, resource: str) -> float:
        """The largest amount of a resource on any machine."""
        return max((machine.get(resource, 0.0) for machine in self.machines()), default=0.0)

    def total(self, resource: str) -> float:
        """The amount of a resource on all machines together."""
        return sum(machine.get(resource, 0.0) for machine in self.machines())

    def capacity(self) -> Capacity:
        """Its processors and GPUs."""
        return Capacity(self.total("CPU"), self.total("GPU"))

    def wait_for_machines(self) -> None:
        """Wait for the first machine that can run something: right after it came up a cluster may consist
        of its head only, and others join within seconds."""
        end = time.monotonic() + JOIN_SECONDS
        while not self.most("CPU") and time.monotonic() < end:
            time.sleep(0.2)

    def gpu_model(self) -> str:
        """The model name of its GPUs."""
        named = {name for machine in self.machines() for name in machine if name.startswith("accelerator_")}
        return "+".join(sorted(name.partition(":")[2] for name in named)) or "gpu"


@contextmanager
def cluster(address: str | None, *, cpu_isa: str | None = None) -> Iterator[Cluster]:
    """Connect to `address`, or start Ray on this machine until the end of the block. Workers are limited
    to the instruction set `cpu_isa`, if given. InputError if no cluster answers, or if it does not accept
    our token."""
    for name in ("ray", "ray.tune", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the display reports failures, once
    if address is not None and "://" in address:
        raise InputError(
            f"{address}: Ray Client is not supported; give host:6379, or `auto` on the head node"
        )
    with ExitStack() as after:
        options = {} if address else after.enter_context(_own_ray())
        _init(address, cpu_isa, options)
        after.callback(ray.shutdown)
        there = Cluster(() if address is None else tuple(promised()))
        there.wait_for_machines()
        yield there


def _init(address: str | None, cpu_isa: str | None, options: dict[str, Any]) -> None:
    """Connect to Ray at `address`, or start it here with these options. InputError if that fails."""
    try:
        if address and check_listening(address):  # Ray itself would wait for minutes
            GcsClient(address=address)  # AuthenticationError at once; ray.init would hide it for 20 s
        ray.init(
            address or "local",
            log_to_driver=False,
            configure_logging=False,
            namespace="opsctl",
            runtime_env={"env_vars": isa_environment(cpu_isa)} if cpu_isa else None,
            **options,
        )
    except AuthenticationError:
        raise find_token().refused(address or "this machine") from None
    except InputError:
        raise
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = (
            f"no Ray cluster answers at {address}" if address else "Ray could not be started on this machine"
        )
        raise InputError(f"{where}: {error}") from None


@contextmanager
def _own_ray() -> Iterator[dict[str, Any]]:
    """Options for a Ray on this machine that no other user can reach: the token is readable by this user
    only, Ray listens on loopback only, and its sockets and logs are in a private folder that is removed
    afterwards."""
    make_private_token()
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # makes Ray listen on loopback only
    try:
        with scratch(_short_folder()) as folder:
            # a subfolder, since Ray makes the folder that it is given accessible to everyone
            yield {"include_dashboard": False, "_temp_dir": str(folder / "r")}
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _short_folder() -> Path:
    """A folder for Ray with a short path: the path of a socket is limited to about a hundred characters."""
    place = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    if len(str(place)) > LONGEST_FOLDER:
        return Path("/tmp")
    place.mkdir(parents=True, exist_ok=True)
    return place


def device_of(*, gpu: bool) -> torch.device:
    """The device of this worker, with as many threads as Ray gave it processors. RuntimeError if its GPU
    no longer works, InputError if it cannot be limited to the instruction set that the sweep names."""
    check_pinned_isa()
    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, int(cpus)))
    return given(gpu=gpu, works=torch.cuda.is_available(), built=torch.backends.cuda.is_built())


def given(*, gpu: bool, works: bool, built: bool, devices: Path = Path("/dev")) -> torch.device:
    """The device of a worker that was given a `gpu`. A GPU that the machine has, and that torch is built
    for, must work: on the processor a trial would take a hundred times as long. If Ray counts GPUs
    that do not exist, or torch is built for processors only, it is the processor."""
    if gpu and not works and built and any(devices.glob("nvidia[0-9]*")):
        raise RuntimeError(
            "CUDA error: this machine has a GPU, but torch finds none that works (nvidia-smi?)"
        )
    return torch.device("cuda" if gpu and works else "cpu")


def cause(error: BaseException) -> BaseException:
    """The exception that a worker raised, without what Ray wraps around it."""
    while isinstance(inner := getattr(error, "cause", None), BaseException):
        error = inner
    return error
