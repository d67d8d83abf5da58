"""Leases on trials and data sets, among drivers that share storage: one driver holds a lease, and another may
take it when that driver is dead. When a driver counts as dead: STALE_SECONDS of heartbeats.py.

A lease is a file `leases/<name>.<n>` that contains the id of its driver. To take it, a driver creates the
file with the next n, if all existing ones belong to dead drivers, then lists the files again and withdraws if
another living driver has one. Of two living drivers the later always sees the file of the earlier, so at most
one holds the lease. After taking a lease a driver checks whether the work was finished in the meantime.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from orchestrator.storage.heartbeats import Watch
from orchestrator.storage.storage import Storage


class Leases:
    """The leases of one driver. All calls come from one thread, and raise OSError if storage does not
    answer."""

    def __init__(self, storage: Storage, driver: str) -> None:
        self.storage, self.driver = storage, driver
        self.watch = Watch(storage)
        self._held: dict[str, int] = {}  # name -> the n of this driver's file

    def take(self, name: str) -> bool:
        """Whether this driver now holds the lease on `name`. If not, try again later."""
        if name in self._held:
            return True
        if self._create(name, 0):
            return self._confirmed(name, 0)
        owners = self._owners(name)
        mine = [n for n, owner in owners.items() if owner == self.driver]
        if mine:  # an earlier attempt ended with an error of storage before it was confirmed
            return self._confirmed(name, mine[-1])
        if not owners or any(map(self.watch.alive, owners.values())):
            return False
        n = max(owners) + 1
        return self._create(name, n) and self._confirmed(name, n)

    def free(self, name: str) -> bool:
        """Whether no other living driver holds it, as far as one can tell without taking it."""
        owners = self._owners(name).values()
        return not any(owner != self.driver and self.watch.alive(owner) for owner in owners)

    def release(self, name: str, *, done: bool) -> None:
        """Give it back. If the work is `done`, all files of the lease are removed."""
        mine = self._held.pop(name, None)
        for n in self._owners(name) if done else [] if mine is None else [mine]:
            self.storage.remove(f"leases/{name}.{n}")

    def tidy(self, done: Callable[[str], bool]) -> None:
        """Remove leases that dead drivers left on work that is `done` (by its name): no one will take
        them."""
        for name in {lease.rpartition(".")[0] for lease in self.storage.names("leases")}:
            if done(name) and not any(map(self.watch.alive, self._owners(name).values())):
                self.release(name, done=True)

    def _confirmed(self, name: str, n: int) -> bool:
        """Whether no other living driver has a file for that name; otherwise this driver's is removed."""
        if not self.free(name):
            self.storage.remove(f"leases/{name}.{n}")
            return False
        self._held[name] = n
        return True

    def _create(self, name: str, n: int) -> bool:
        """It need not survive a power cut: neither does its driver, and an empty file counts as a dead
        driver's."""
        return self.storage.create(f"leases/{name}.{n}", self.driver.encode(), lasting=False)

    def _owners(self, name: str) -> dict[int, str]:
        """The drivers that have a file for that name, by its n."""
        found = (lease.rpartition(".") for lease in self.storage.names("leases"))
        numbers = sorted(int(n) for held, _, n in found if held == name and re.fullmatch("[0-9]{1,9}", n))
        files = ((n, self.storage.read(f"leases/{name}.{n}")) for n in numbers)
        return {n: owner.decode(errors="replace") for n, owner in files if owner is not None}
