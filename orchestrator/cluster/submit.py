"""Sending a sweep to a cluster: what must be right before it leaves, and what is told about it afterwards."""

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
    """The sweep's name, and the options that `opsctl sweep` gets on the head.

    The whole sweep is checked here, without a look at its data or its store, which may be out of reach.
    Raises InputError, also for what must not travel: a password, or a path that means something else there.
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
    """InputError unless a store may be found at the same place by every machine of a cluster."""
    _refuse_password(store, "--store", "AWS_PROFILE, or a role of the machines,")
    if as_url(store) is None and not Path(store.removeprefix("file://")).is_absolute():
        raise InputError(
            f"--store {store} is a folder of this machine, and the sweep runs on others: write the absolute "
            "path of a folder that they all share (/shared/opsctl), or a URL (s3://bucket/opsctl)"
        )


def check_tracking(uri: str) -> None:
    """InputError unless an MLflow may be found at the same address by the head of a cluster."""
    _refuse_password(uri, "--tracking-uri", "OPSCTL_TRACKING_URI")
    scheme, mark, _ = uri.partition("://")
    if not mark or scheme.partition("+")[0] in ("sqlite", "file"):
        raise InputError(
            f"--tracking-uri {uri} (or OPSCTL_TRACKING_URI) is a file of this machine, and the sweep runs on "
            "another: write the address of a server that the head reaches (http://server:5000), or unset it; "
            "then it is what OPSCTL_TRACKING_URI says on the head, or else a database beside the store"
        )


def after(file: Path, job: str, *, store: str, settings: Sequence[str], address: str) -> str:
    """What to write to see, to follow and to stop a sweep that runs on a cluster."""
    which = [str(file), "--store", store, *(part for one in settings for part in ("--set", one))]
    logs = shlex.join(["ray", "job", "logs", job, "--follow", "--address", address])
    return "\n".join(
        (
            f"{job} runs on the cluster, whether or not anybody looks:",
            f"  look    {shlex.join(['opsctl', 'status', *which, '--watch'])}",
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
