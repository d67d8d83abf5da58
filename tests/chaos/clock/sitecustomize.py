"""A wall clock that can jump: Python imports this module at startup if its folder is on the path. Then `time.time`
is shifted by the number of seconds in the file $OPSCTL_TEST_CLOCK (a C double)."""

import mmap
import os
import struct
import sys
import time


def _shift(name: str) -> None:
    with open(name, "rb") as file:
        held = mmap.mmap(file.fileno(), struct.calcsize("d"), prot=mmap.PROT_READ)
    steady, steady_ns = time.time, time.time_ns

    def seconds() -> float:
        return struct.unpack("d", held)[0]

    time.time = lambda: steady() + seconds()
    time.time_ns = lambda: steady_ns() + int(seconds() * 1e9)


# Ray's own server for clients, which is not used, would wait in a busy loop: its deadlines come from a clock
# that no other process shares
if "OPSCTL_TEST_CLOCK" in os.environ and "ray.util.client.server" not in sys.orig_argv:
    _shift(os.environ["OPSCTL_TEST_CLOCK"])
