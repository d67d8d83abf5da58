"""What the C library does with large blocks of memory that are given back."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM, MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
LARGE = 2**20  # bytes
MOST = 2**25  # bytes: what glibc comes to by itself, DEFAULT_MMAP_THRESHOLD_MAX


@contextmanager
def large_blocks_go_back() -> Iterator[None]:
    """Within, blocks of a MiB and more return to the system as they are freed. Where there is no glibc,
    nothing changes.

    Left alone, glibc keeps freed blocks of up to 32 MiB to use them again, and whatever small is put among
    them keeps the next one from fitting: going over images piece by piece, a process grew by a piece each
    time. Afterwards it keeps such blocks as before, which is faster where many come and go.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        yield
        return
    set_option(MMAP, LARGE)
    try:
        yield
    finally:
        set_option(MMAP, MOST)
        set_option(TRIM, 2 * MOST)
