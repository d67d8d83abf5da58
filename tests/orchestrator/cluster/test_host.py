"""A scratch folder is private: no other user can create, read or redirect it; and it is always removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.cluster.host import OWNER, scratch
from orchestrator.storage.process import this_process
from tests.conftest import ROOT

HOLD = "import sys, time; from pathlib import Path; from orchestrator.cluster.host import scratch\n"
HOLD += "with scratch(Path(sys.argv[1])) as folder: print(folder, flush=True); time.sleep(600)"


def test_it_is_private_with_any_umask_and_removed_afterwards(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with scratch(tmp_path) as folder:
            assert folder.stat().st_mode & 0o777 == 0o700
            assert folder.parent == tmp_path
            (folder / "x").write_text("x")
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


def test_files_and_links_of_others_do_no_harm_and_are_not_followed(tmp_path: Path) -> None:
    """A file, a link or a folder with a name of earlier versions, or with that of a scratch folder."""
    evil = tmp_path / "evil"
    evil.mkdir()
    (evil / OWNER).write_text("0" * 8 + "-1")
    (evil / "kept").write_text("kept")
    shared = tmp_path / "tmp"
    shared.mkdir()
    for name in ("opsctl-root", "opsctl-alice"):
        (shared / name).symlink_to(evil)
    (shared / "opsctl-file").write_text("")
    (shared / "opsctl-loop").symlink_to("opsctl-loop")
    (shared / "opsctl-dead").symlink_to(evil / OWNER)
    with scratch(shared) as folder:
        assert not folder.is_symlink()
    assert (evil / "kept").exists()
    assert len(list(shared.iterdir())) == 5


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make folders of other users")
def test_a_folder_of_another_user_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "opsctl-x"
    theirs.mkdir()
    (theirs / OWNER).write_text(_ended())
    os.chown(theirs, 65534, 65534)
    with scratch(tmp_path):
        pass
    assert theirs.exists()


def test_folders_of_killed_processes_are_removed_and_those_of_live_ones_kept(tmp_path: Path) -> None:
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(2)
    ]
    folders = []
    for holder in holders:
        assert holder.stdout is not None
        folders.append(Path(holder.stdout.readline().strip()))
    holders[0].send_signal(signal.SIGKILL)
    holders[0].communicate()
    with scratch(tmp_path):
        assert not folders[0].exists()
        assert folders[1].exists()
    holders[1].kill()
    holders[1].communicate()


def _ended() -> str:
    """The name of an ended process of this machine."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    time.sleep(0.01)
    return f"{this_process().partition('-')[0]}-{process.pid}"
