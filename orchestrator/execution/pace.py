"""How long trainings take: as estimated before the sweep, corrected by what others of the same recipe took.
Imports no ray."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

NEWEST = 0.5  # weight of the newest training in the correction


class Pace:
    """Expected durations of trainings, by key."""

    def __init__(
        self, seconds: Mapping[str, float], recipes: Mapping[str, Hashable], *, learned: bool = False
    ) -> None:
        """`seconds` are estimates; trainings of one recipe take equally long. `learned` says whether the
        estimates come from finished trainings."""
        self._seconds, self._recipes, self._learned = seconds, recipes, learned
        self._factors: dict[Hashable, float] = {}

    def expected(self, key: str) -> float:
        """Seconds that a training will take."""
        return self._seconds.get(key, 1.0) * self._factors.get(self._recipes.get(key), 1.0)

    def known(self, key: str) -> bool:
        """Whether the duration follows from a finished training, and is not only a guess."""
        return self._learned or self._recipes.get(key) in self._factors

    def took(self, key: str, seconds: float) -> None:
        """A training of this recipe took so many seconds."""
        recipe, found = self._recipes.get(key), seconds / self._seconds.get(key, 1.0)
        before = self._factors.get(recipe, found)
        self._factors[recipe] = before + NEWEST * (found - before)
