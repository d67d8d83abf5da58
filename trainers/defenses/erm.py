"""Empirical risk minimisation: plain training, the defense of who suspects nothing."""

from __future__ import annotations

from typing import ClassVar

from trainers.families import Defense


class Erm(Defense, kind="erm"):
    """Minimises the mean cross-entropy."""

    memorises: ClassVar[bool] = True
