"""Stops Ray on a cluster of your own machines.

Run `python cluster/down.py cluster/local.yaml` in the repository's root.

`ray down` stops Ray on the head only: workers notice within a minute, and even then a process of Ray's stays
on each. So this script runs `ray stop` on each, over ssh through the head, as Ray itself does.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

RAY = str(Path(sys.executable).with_name("ray"))
QUIET = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
STOP = "bash --login -i -c 'ray stop' 2> /dev/null"  # a login shell has ray on its PATH


def main(file: str) -> int:
    """Stop Ray on every machine of the cluster; 0 if every machine says that it has."""
    config: dict[str, Any] = yaml.safe_load(Path(file).read_text())
    provider, auth = config["provider"], config["auth"]
    if provider["type"] != "local":
        raise SystemExit(
            f"{file} is for {provider['type']}: write `ray down {file}`, which ends its machines"
        )
    subprocess.run([RAY, "down", "-y", file], check=True, stdin=subprocess.DEVNULL)
    to_head = ["ssh", "-i", str(Path(auth["ssh_private_key"]).expanduser()), *QUIET]
    to_head.append(f"{auth['ssh_user']}@{provider['head_ip']}")
    left = []
    for address in provider["worker_ips"]:
        there = ["ssh", "-i", "~/ray_bootstrap_key.pem", *QUIET, f"{auth['ssh_user']}@{address}"]
        command = f"{' '.join(there)} {shlex.quote(STOP)}"
        if subprocess.run([*to_head, command], check=False, stdin=subprocess.DEVNULL).returncode:
            left.append(address)
    for address in left:
        print(f"{address} could not be reached: log in there and run `ray stop`", file=sys.stderr)
    return 1 if left else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    sys.exit(main(sys.argv[1]))
