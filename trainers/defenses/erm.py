"""Empirical risk minimisation: plain training, without a defense."""

from __future__ import annotations

from trainers.families import Defense


class Erm(Defense, kind="erm"):
    """Minimises the mean cross-entropy."""

    @property
    def memorises(self) -> bool:
        return True
