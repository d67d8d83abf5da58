"""Hosts on one machine: each has an address, processes, a hostname, a home, /tmp and /dev/shm of its own, and
is reached by ssh.

They are Linux namespaces, so that killing a host's first process is a power cut, and taking its link down a
pulled cable. Programs and files are this machine's; what a host writes into its home or /tmp is its own and
gone with it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.conftest import ROOT

SHARED = Path("/mnt")  # where every host sees the folder that they share
BOOTED = ("ip", "unshare", "nsenter", "setpriv", "sshd", "ssh-keygen")  # required for hosts,
NEEDED = (*BOOTED, "ssh", "rsync")  # and by `ray up` in addition

BOOT = """
set -e
mount --make-rprivate /
hostname "$NAME"
mount --bind "$SHARED_FOLDER" /mnt
mount -t tmpfs tmpfs /media
mkdir /media/upper /media/work
mount -t overlay overlay -o lowerdir=/root,upperdir=/media/upper,workdir=/media/work /root
rm -rf /root/.ssh /root/.ray
mount -t tmpfs tmpfs /run
mkdir -m 0755 /run/sshd
cp "$FOLDER/key.pub" /run/sshd/authorized_keys
ssh-keygen -q -t ed25519 -N '' -f /run/sshd/host
printf 'nameserver 127.0.0.1\\n' > /run/resolv.conf    # refuses at once, where a real one would never answer
printf '127.0.0.1 localhost\\n%s %s\\n' "$ADDRESS" "$NAME" > /run/hosts
mount --bind /run/resolv.conf "$(readlink -f /etc/resolv.conf)"
mount --bind /run/hosts /etc/hosts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm
cat > /run/sshd/config <<END
HostKey /run/sshd/host
AuthorizedKeysFile /run/sshd/authorized_keys
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
StrictModes no
END
exec /usr/sbin/sshd -D -e -f /run/sshd/config
"""


def lacking(needed: Sequence[str] = NEEDED) -> str | None:
    """Why hosts cannot be created on this machine; None if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if ROOT.is_relative_to("/tmp"):
        return "each host has a /tmp of its own, and this checkout lies there"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in needed if shutil.which(name, path=path) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


class Hosts:
    """Running hosts, from `with` to its end.

    `names` are theirs; `shared` is a folder of this machine that all of them see as /mnt; `folder` is for keys
    and logs. `address[name]` is where a host is found; `key` opens them all, for root.
    """

    def __init__(self, *names: str, folder: Path, shared: Path) -> None:
        self.names, self.folder, self.shared = names, folder, shared
        self.key = folder / "key"
        self.id = secrets.token_hex(3)
        net = f"10.{secrets.randbelow(56) + 200}.{secrets.randbelow(256)}"
        self.gateway = f"{net}.1"
        self.address = {name: f"{net}.{11 + i}" for i, name in enumerate(names)}
        self._first: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        make_key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a throw-away key", "-f", self.key]
        subprocess.run(make_key, check=True)
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("address", "add", f"{self.gateway}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            for name in self.names:
                self.boot(name)
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._clean_up()

    def boot(self, name: str) -> None:
        """Start a host, also one that was killed; its home and /tmp are empty."""
        space, link = self._space(name), self._link(name)
        _ip("netns", "add", space)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", link, "master", self._bridge, "up")
        _ip("-n", space, "link", "set", "lo", "up")
        _ip("-n", space, "link", "set", "eth0", "up")
        _ip("-n", space, "address", "add", f"{self.address[name]}/24", "dev", "eth0")
        _ip("-n", space, "route", "add", "default", "via", self.gateway)  # leads nowhere; Ray requires one
        _ip("-n", space, "route", "add", "unreachable", "169.254.0.0/16")
        env = self.environment | {"NAME": name, "ADDRESS": self.address[name]}
        env |= {"FOLDER": str(self.folder), "SHARED_FOLDER": str(self.shared)}
        own = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._first[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", space, *own, "bash", "-c", BOOT],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait(name)

    def run(self, name: str, command: str, *, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a shell command on a host, as root in its home, from outside its network: it works with a cut link."""
        return subprocess.run(
            self.entering(name, f"cd /root && {command}"),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def entering(self, name: str, command: str) -> list[str]:
        """The command line that runs a shell command on a host, from outside its network, in `environment`."""
        target = ["--target", str(self.pid_of(name))]
        return ["nsenter", *target, "--mount", "--pid", "--uts", "--ipc", "--net", "bash", "-c", command]

    @property
    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "HOME": "/root", "LANG": "C.UTF-8"}

    def ssh(self, name: str, *command: str, options: Sequence[str] = ()) -> list[str]:
        """The command line that reaches a host by ssh."""
        quiet = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR")
        settings = [part for one in (*quiet, "IdentitiesOnly=yes") for part in ("-o", one)]
        return ["ssh", "-i", str(self.key), *settings, *options, f"root@{self.address[name]}", *command]

    def processes(self, name: str) -> list[str]:
        """The processes of a host, except its ssh server and this query."""
        seen = self.run(name, "ps -eo pid=,args=").stdout.splitlines()
        ours = ("sshd", "ps -eo", "bash -c cd /root && ps")
        return [line for line in seen if not line.split(maxsplit=1)[1].startswith(ours)]

    def cut(self, name: str) -> None:
        """Pull a host's network cable without notice to any process."""
        _ip("link", "set", self._link(name), "down")

    def mend(self, name: str) -> None:
        """Put the cable in again."""
        _ip("link", "set", self._link(name), "up")

    def kill(self, name: str) -> None:
        """Cut a host's power: every process on it dies at once. `boot` starts it again."""
        first = self._first.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
        first.wait(timeout=30)
        for arguments in (("link", "delete", self._link(name)), ("netns", "delete", self._space(name))):
            subprocess.run(["ip", *arguments], capture_output=True, check=False)

    @property
    def _bridge(self) -> str:
        return f"oh{self.id}"

    def _space(self, name: str) -> str:
        return f"oh{self.id}-{name}"

    def _link(self, name: str) -> str:
        return f"oh{self.id}v{self.names.index(name)}"  # a device's name has at most 15 letters

    def pid_of(self, name: str) -> int:
        """The host's first process, as this machine numbers it: the child of `unshare`."""
        parent = self._first[name].pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return int(children[0])

    def _wait(self, name: str, *, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._first[name].poll() is None:
            with suppress(OSError):
                socket.create_connection((self.address[name], 22), timeout=1).close()
                return
            time.sleep(0.1)
        raise RuntimeError(f"{name} did not come up:\n{(self.folder / f'{name}.log').read_text()}")

    def _clean_up(self) -> None:
        for name in list(self._first):
            self.kill(name)
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", self._space(name)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", self._bridge], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
