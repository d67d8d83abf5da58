"""Runs a module as `python -m MODULE ...` does, for as long as its parent process lives.

Its standard input is a pipe that its parent holds open and never writes to. When the parent ends, even by
SIGKILL, the kernel closes the pipe. This process then kills its process group, which it must lead.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    parent, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # child processes of the module must not read from the pipe
    os.set_inheritable(parent, False)
    threading.Thread(target=_end_with, args=(parent,), name="tether", daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _end_with(parent: int) -> None:
    while os.read(parent, 1):
        pass
    if os.getpgrp() == os.getpid():  # else the group belongs to another process
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
