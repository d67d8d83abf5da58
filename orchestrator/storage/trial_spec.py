"""The settings of a trial, whose hash is its key: the ledger keeps results under it."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from poisons import DataSpec
from trainers.trial import Trial


class TrialSpec(Trial):
    """One training run: its data set, its recipe, its evaluation, its seed. One key, one result."""

    data: DataSpec = DataSpec()
    """The images to train on; the clean test images come from the same source."""

    @model_validator(mode="after")
    def _restored_by_its_defense(self) -> Self:
        if self.data.restored_by is not None:
            raise ValueError(
                "`data.restored_by` follows from the defense: leave it out, and write train.defense"
            )
        return self

    @property
    def test_data(self) -> DataSpec:
        """The clean test images that go with the training data."""
        return DataSpec(source=self.data.source, split="test", limit=self.evaluation.limit)

    @property
    def training_data(self) -> DataSpec:
        """The images that it is trained on: `data`, restored if its defense restores them."""
        restoration = self.train.defense.restoration
        return self.data if restoration is None else self.data.restored(restoration.canonical)

    @property
    def needs(self) -> tuple[DataSpec, DataSpec]:
        return self.test_data, self.training_data
