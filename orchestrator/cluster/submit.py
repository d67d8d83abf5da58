"""What comes before a sweep is submitted to a cluster, and after: checks, and the instructions to print. The
submission itself is in execution/ray/jobs.py."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from orchestrator.planning.expansion import expand
from orchestrator.planning.sweep_file import load
from orchestrator.storage.locations import as_url
from trainers import InputError
from trainers.redaction import has_credentials


def prepare(
    file: Path,
    *,
    store: str,
    settings: Sequence[str],
    tracking_uri: str | None = None,
    tracking_wait: float = 15,
) -> tuple[str, list[str]]:
    """The sweep's name, and the options of `opsctl sweep` on the head.

    Checks the whole sweep, but not its data or its store, which may be unreachable from here. Raises
    InputError, also for values that must not be sent: a password, or a path with another meaning there.
    """
    sweep = load(file, tuple(settings))
    expand(sweep, str(file))
    check_store(store)
    for setting in settings:
        _refuse_password(
            setting, f"--set {setting.partition('=')[0]}", "what the URL needs, such as AWS_PROFILE,"
        )
    options = ["--store", store, "--address", "auto", "--tracking-wait", f"{tracking_wait:g}"]
    if tracking_uri is not None:
        check_tracking(tracking_uri)
        options += ["--tracking-uri", tracking_uri]
    return sweep.name, [*options, *(part for one in settings for part in ("--set", one))]


def check_store(store: str) -> None:
    """Raises InputError unless every machine of a cluster can find the store at the same place."""
    _refuse_password(store, "--store", "AWS_PROFILE, or a role of the machines,")
    if as_url(store) is None and not Path(store.removeprefix("file://")).is_absolute():
        raise InputError(
            f"--store {store} is a folder of this machine, but the sweep runs on others: write the absolute "
            "path of a folder that they all share (/shared/opsctl), or a URL (s3://bucket/opsctl)"
        )


def check_tracking(uri: str) -> None:
    """Raises InputError unless the head of a cluster can find MLflow at the same address."""
    _refuse_password(uri, "--tracking-uri", "OPSCTL_TRACKING_URI")
    scheme, mark, _ = uri.partition("://")
    if not mark or scheme.partition("+")[0] in ("sqlite", "file"):
        raise InputError(
            f"--tracking-uri {uri} (or OPSCTL_TRACKING_URI) is a file of this machine, but the sweep runs on "
            "another: write the address of a server that the head reaches (http://server:5000), or unset it "
            "to use OPSCTL_TRACKING_URI of the head, or by default a database beside the store"
        )


def after(file: Path, job: str, *, store: str, settings: Sequence[str], address: str) -> str:
    """The commands that watch, follow and stop a sweep that runs on a cluster."""
    which = [str(file), "--store", store, *(part for one in settings for part in ("--set", one))]
    logs = shlex.join(["ray", "job", "logs", job, "--follow", "--address", address])
    return "\n".join(
        (
            f"{job} runs on the cluster, independently of this terminal:",
            f"  watch   {shlex.join(['opsctl', 'status', *which, '--watch'])}",
            f"  follow  RAY_AUTH_MODE=token {logs}",
            f"  stop    {shlex.join(['opsctl', 'stop', str(file), '--store', store])}",
        )
    )


def _refuse_password(value: str, option: str, instead: str) -> None:
    if has_credentials(value):
        raise InputError(
            f"{option} holds a password or a token, which the cluster's dashboard would show; set {instead} "
            "on the head instead (docs/cluster.md)"
        )
