"""Who does what, among drivers that share storage: a lease is taken by one, and stolen from the dead.

A lease is a file `leases/<name>.<n>` that names its driver. Whoever wants it creates the next n where all
files are of dead drivers, then looks again, and gives way if another living driver has one after all. Of two
who live and have one, the later sees the earlier's, so at most one holds. Whoever has taken a lease looks
whether the work is done after all: it may have been, just before.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from orchestrator.storage.heartbeats import Watch
from orchestrator.storage.storage import Storage


class Leases:
    """The leases of one driver. All calls come from one thread, and raise OSError if the storage does not
    answer."""

    def __init__(self, storage: Storage, driver: str) -> None:
        self.storage, self.driver = storage, driver
        self.watch = Watch(storage)
        self._held: dict[str, int] = {}  # name -> the n of this driver's file

    def take(self, name: str) -> bool:
        """Whether the work called `name` is this driver's to do, now. If not, ask again later."""
        if name in self._held:
            return True
        if self._create(name, 0):
            return self._confirmed(name, 0)
        owners = self._owners(name)
        mine = [n for n, owner in owners.items() if owner == self.driver]
        if mine:  # the storage went away before it was confirmed
            return self._confirmed(name, mine[-1])
        if not owners or any(map(self.watch.alive, owners.values())):
            return False
        n = max(owners) + 1
        return self._create(name, n) and self._confirmed(name, n)

    def free(self, name: str) -> bool:
        """Whether no other living driver has it, as far as one can tell without taking it."""
        owners = self._owners(name).values()
        return not any(owner != self.driver and self.watch.alive(owner) for owner in owners)

    def release(self, name: str, *, done: bool) -> None:
        """Give it back. Of work that is `done`, nothing stays."""
        mine = self._held.pop(name, None)
        for n in self._owners(name) if done else [] if mine is None else [mine]:
            self.storage.remove(f"leases/{name}.{n}")

    def tidy(self, done: Callable[[str], bool]) -> None:
        """Remove the leases that dead drivers have left on work that is `done`, by its name: nobody will take
        them again."""
        for name in {lease.rpartition(".")[0] for lease in self.storage.names("leases")}:
            if done(name) and not any(map(self.watch.alive, self._owners(name).values())):
                self.release(name, done=True)

    def _confirmed(self, name: str, n: int) -> bool:
        """Whether no other living driver has a file of that name; else this one's goes."""
        if not self.free(name):
            self.storage.remove(f"leases/{name}.{n}")
            return False
        self._held[name] = n
        return True

    def _create(self, name: str, n: int) -> bool:
        """It need not outlast its machine's power: nor does its driver, and an empty one counts as one of the
        dead."""
        return self.storage.create(f"leases/{name}.{n}", self.driver.encode(), lasting=False)

    def _owners(self, name: str) -> dict[int, str]:
        """The drivers that have a file of that name, by its n."""
        found = (lease.rpartition(".") for lease in self.storage.names("leases"))
        numbers = sorted(int(n) for held, _, n in found if held == name and re.fullmatch("[0-9]{1,9}", n))
        files = ((n, self.storage.read(f"leases/{name}.{n}")) for n in numbers)
        return {n: owner.decode(errors="replace") for n, owner in files if owner is not None}
