"""Empirical risk minimisation: plain training, without a defense."""

from __future__ import annotations

from typing import ClassVar

from trainers.families import Defense


class Erm(Defense, kind="erm"):
    """Minimises the mean cross-entropy."""

    memorises: ClassVar[bool] = True
