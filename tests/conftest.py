"""Fixtures of all tests: a store, small images, the real CIFAR-10 if it is available, and the command line."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from s3fs import S3FileSystem

from orchestrator import cli
from poisons import Store
from tests import s3
from trainers import Images

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
settings.register_profile("busy", deadline=None)  # no test is timed: the machine may have other work
settings.load_profile("busy")
WHOLE = ("chaos", "cluster", "test_sweep.py")  # what starts one Ray after another, or hosts


def pytest_itemcollected(item: pytest.Item) -> None:
    """Run tests that start a cluster one after the other in one process of pytest, and the others in parallel."""
    if item.path.relative_to(ROOT / "tests").parts[0] in WHOLE:
        item.add_marker(pytest.mark.xdist_group("whole"))
    elif "bench" in getattr(item, "fixturenames", ()):  # of one store, which takes ten seconds to make
        item.add_marker(pytest.mark.xdist_group("fuzz"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def images() -> Images:
    """40 random 3x32x32 images of 4 classes."""
    gen = torch.Generator().manual_seed(0)
    x = torch.randint(256, (40, 3, 32, 32), generator=gen, dtype=torch.uint8)
    return Images(x, torch.arange(40) % 4, 4)


@pytest.fixture(scope="session")
def cifar10() -> dict[str, str]:
    """A sweep's `source` for CIFAR-10 as Parquet files: $OPSCTL_TEST_CIFAR10, or ../shared/data/cifar10."""
    folder = Path(os.environ.get("OPSCTL_TEST_CIFAR10", ROOT.parent / "shared" / "data" / "cifar10"))
    if not list(folder.glob("train-*.parquet")):
        pytest.skip("no CIFAR-10 Parquet files at hand; name their folder in $OPSCTL_TEST_CIFAR10")
    return {"kind": "parquet", "train": f"{folder}/train-*.parquet", "test": f"{folder}/test-*.parquet"}


Opsctl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def opsctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Opsctl:
    """Runs the command line in this process: `code, out, err = opsctl("plan", file)`."""
    monkeypatch.setenv("OPSCTL_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["opsctl", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run


def start(*arguments: object, store: Path | str, **options: str) -> subprocess.Popen[str]:
    """Start `opsctl` in a process of its own, as a user does."""
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *map(str, arguments)],
        env={**os.environ, "OPSCTL_STORE": str(store), "COLUMNS": "200", **options},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )


def finish(process: subprocess.Popen[str], *, seconds: float = 300) -> tuple[int, str]:
    """Wait for a process; its exit code and output."""
    out, _ = process.communicate(timeout=seconds)
    return process.returncode, out


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server."""
    with s3.served() as address:
        yield address


@pytest.fixture(scope="session")
def narrow_s3_server() -> Iterator[str]:
    """The address of an S3 server that lists only `some/prefix` of each bucket."""
    with s3.served(lists="some/prefix") as address:
        yield address


@pytest.fixture
def narrow_bucket(narrow_s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A bucket whose user may list only `some/prefix`."""
    yield from _bucket(narrow_s3_server, monkeypatch, tmp_path)


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The URL of a new bucket, with the environment that a user would set; the local cache is
    `tmp_path / "cache"`."""
    yield from _bucket(s3_server, monkeypatch, tmp_path)


def _bucket(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("OPSCTL_CACHE", str(tmp_path / "cache"))
    for name, value in s3.KEYS.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    yield s3.bucket(address, f"b{secrets.token_hex(8)}")
    S3FileSystem.clear_instance_cache()
