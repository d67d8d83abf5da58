"""CIFAR-10 for the benchmarks: `train.pt` and `test.pt` (Images.save) or Parquet files in one folder."""

from __future__ import annotations

from pathlib import Path

from trainers import Images


def cifar10(folder: Path, split: str, limit: int | None = None) -> Images:
    """The split, or a class-balanced `limit` of it."""
    tensors = folder / f"{split}.pt"
    if tensors.exists():
        images = Images.load(tensors)
    else:
        from poisons.sources.parquet import Parquet

        images = Parquet(train=f"{folder}/train-*.parquet", test=f"{folder}/test-*.parquet").load(split)
    return images.subset(limit)
