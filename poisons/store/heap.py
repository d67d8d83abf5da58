"""Control over what the C library does with large freed blocks of memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

TRIM, MMAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
LARGE = 2**20  # bytes
MOST = 2**25  # bytes: glibc's own upper limit, DEFAULT_MMAP_THRESHOLD_MAX


@contextmanager
def large_blocks_go_back() -> Iterator[None]:
    """Within the block, freed memory blocks of 1 MiB and more are returned to the system. Without glibc it
    does nothing.

    By default glibc keeps freed blocks of up to 32 MiB for reuse, and small allocations fragment them: a
    process that iterated over images in chunks grew by a chunk each time. Afterwards the default is restored,
    which is faster for many short-lived blocks.
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
