"""A sweep as a job of a Ray cluster: submitted to the head and followed from here. A lost connection does
not affect it."""

from __future__ import annotations

import asyncio
import http.client
import logging
import secrets
import shlex
import shutil
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from orchestrator.cluster.token import ANSWER_SECONDS, Token, find_token
from trainers import InputError
from trainers.stored import VALUE

LOST_SECONDS = 60.0  # how long to try to reconnect: a tunnel may be reopened
QUIET_SECONDS = 20.0  # without output, after which the connection is checked
STOP_SECONDS = 60  # that a sweep has to end cleanly after a request to stop, before Ray kills it
CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
NO_OPSCTL = (
    "No module named orchestrator",
    "No module named 'orchestrator'",
    "python: not found",
    "python: command not found",
)
# the errors of a broken connection; ValueError: the response was truncated
TROUBLE = (aiohttp.ClientError, RuntimeError, OSError, http.client.HTTPException, ValueError)


class Jobs:
    """The jobs of the cluster whose dashboard is at `address`, such as http://127.0.0.1:8265.

    Raises InputError if no dashboard answers there, or if it does not accept our token.
    """

    def __init__(self, address: str) -> None:
        for name in CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)
        self.address = _url(address)
        self._token = find_token()
        _ask(self.address, self._token)
        self._client = JobSubmissionClient(self.address, headers=self._token.header)

    def submit(self, file: Path, name: str, options: Sequence[str]) -> str:
        """Have the head run `opsctl sweep FILE options...`, and restart it if it is killed. Returns the
        job's id. Only the sweep file is transferred."""
        entrypoint = shlex.join(
            ["python", "-m", "orchestrator.cluster.supervisor", name, file.name, *options]
        )
        with tempfile.TemporaryDirectory(prefix="opsctl-") as folder:
            shutil.copyfile(file, Path(folder) / file.name)
            return self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=f"{name}-{secrets.token_hex(4)}",
                runtime_env={
                    "working_dir": folder,
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)},
                },
            )

    def follow(self, job: str, write: Callable[[str], object]) -> int:
        """Write the output of the job until it ends. Returns its exit code, or 130 if it was stopped.

        A lost connection is restored if that is possible within a minute, and nothing is written twice.
        Raises OSError if it is not, or if the job ended without a status; the job continues in any case.
        """
        log, lost = Log(write), 0.0
        while True:
            try:
                asyncio.run(log.copy(self._output(job)))
                info = JobDetails(**_get(f"{self.address}/api/jobs/{job}", self._token))
            except TROUBLE as error:
                if log.received > lost:  # the connection worked since the last error, if any
                    lost = time.monotonic()
                if time.monotonic() - lost > LOST_SECONDS:
                    raise OSError(
                        f"{self.address} no longer answers ({error}); {job} continues on the cluster"
                    ) from None
            else:
                lost = 0.0
                if info.status.is_terminal():
                    return _exit_code(job, info)
            time.sleep(1)

    async def _output(self, job: str) -> AsyncIterator[str]:
        """The job's log from its beginning, as it grows. Raises one of TROUBLE if the connection
        breaks. While there is no output, a request checks it: a dead tunnel may still look open."""
        stream = self._client.tail_job_logs(job)
        while True:
            text = asyncio.ensure_future(anext(stream, None))
            while not (await asyncio.wait({text}, timeout=QUIET_SECONDS))[0]:
                await asyncio.to_thread(_get, f"{self.address}/api/version", self._token)
            if (part := await text) is None:
                return
            yield part


class Log:
    """Writes every part of a log once, although the log starts over after a lost connection."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.write, self.seen = write, 0  # seen: characters written so far
        self.received = time.monotonic()  # when output last arrived, new or not

    async def copy(self, parts: AsyncIterator[str]) -> None:
        """Write what is new in a log that arrives from its beginning. Raises what `parts` raises."""
        place = 0
        async for text in parts:
            place, self.received = place + len(text), time.monotonic()
            if place > self.seen:
                new = text[max(0, len(text) - (place - self.seen)) :]
                self.seen = place
                self.write(new)


def _exit_code(job: str, info: Any) -> int:
    """The exit code for a job that has ended."""
    if info.status == JobStatus.STOPPED:
        return 130
    if any(sign in (info.message or "") for sign in NO_OPSCTL):
        raise InputError(
            "the python that Ray's head finds has no opsctl, or an older one: install opsctl there, and have "
            "its environment first on the PATH of the shell that starts Ray (docs/cluster.md)"
        )
    if info.driver_exit_code is None:
        raise OSError(f"{job} ended without an exit code: {info.message}")
    return int(info.driver_exit_code)


def _url(address: str) -> str:
    """The dashboard's address as a URL; InputError if it cannot be one."""
    url = address.rstrip("/") if "://" in address else f"http://{address.rstrip('/')}"
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.hostname == "auto":
        raise InputError(
            f"{address} is no address of a Ray dashboard: write http://127.0.0.1:8265, with a tunnel to the "
            "head (`ray dashboard cluster.yaml`)"
        )
    return url


def _ask(url: str, token: Token) -> None:
    """InputError unless a Ray dashboard answers at `url` and accepts our token."""
    try:
        _get(f"{url}/api/version", token)["ray_version"]
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise token.refused(url) from None
        raise InputError(f"what answers at {url} is no Ray dashboard ({error})") from None
    except OSError as error:
        raise InputError(
            f"no Ray dashboard answers at {url} ({getattr(error, 'reason', error)}); on a cluster it listens "
            "on the head only: open a tunnel with `ray dashboard cluster.yaml`"
        ) from None
    except (ValueError, KeyError, TypeError, http.client.HTTPException):
        raise InputError(f"what answers at {url} is no Ray dashboard; its port is 8265") from None


def _get(url: str, token: Token) -> Any:
    """The JSON at `url`. Raises one of TROUBLE after a timeout; Ray's own client would wait for ever."""
    request = urllib.request.Request(url, headers=token.header)
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
        return VALUE.read(answer.read(VALUE.limit + 1))
