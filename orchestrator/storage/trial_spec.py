"""The settings of a trial, whose hash is its key: the ledger keeps results under it."""

from __future__ import annotations

from poisons import DataSpec
from trainers.trial import Trial


class TrialSpec(Trial):
    """One training run: its data set, its recipe, its evaluation, its seed. One key, one result."""

    data: DataSpec = DataSpec()
    """The images to train on; the clean test images come from the same source."""

    @property
    def test_data(self) -> DataSpec:
        """The clean test images that go with the training data."""
        return DataSpec(source=self.data.source, split="test", limit=self.evaluation.limit)

    @property
    def needs(self) -> tuple[DataSpec, DataSpec]:
        return self.test_data, self.data
