"""CIFAR-10, CIFAR-100 (Krizhevsky 2009) and SVHN (Netzer et al. 2011), downloaded and verified by
torchvision."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from filelock import FileLock

from poisons.sources.base import Extent, Reading, Source, Split, in_memory
from trainers.images import Images
from trainers.spec import InputError


class TorchvisionSet(Source):
    """A published set. Its fingerprint is the published checksum."""

    locators = ("root",)
    published: ClassVar[str] = ""
    files: ClassVar[tuple[str, ...]] = ()  # files under `root` after the download
    num_classes: ClassVar[int] = 10
    sizes: ClassVar[dict[Split, int]] = {"train": 50_000, "test": 10_000}
    root: str = "~/.cache/opsctl/torchvision"
    """Folder of the files, which are downloaded there if they are missing."""

    def measure(self) -> str:
        return self.published

    def present(self) -> bool:
        return any((self.folder() / name).exists() for name in self.files)

    def open(self, split: Split) -> Reading:
        self._check_files()
        try:
            self.folder().mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder() / "download.lock"):  # both splits come from one archive
                x, y = self.read(split)
        except ImportError:
            raise InputError(f"source {self.kind!r} needs torchvision: pip install torchvision") from None
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"source {self.kind!r} is not under {self.root} and could not be downloaded ({error}). "
                "Ways out: put its files there by hand; use a copy with "
                "`source: {kind: parquet, train: ..., test: ...}` or `{kind: image_folder, root: ...}`; "
                "or try with `source: digits`, which needs no download"
            ) from None
        labels = torch.from_numpy(np.asarray(y, dtype=np.int64))
        return in_memory(Images(torch.from_numpy(x), labels, self.num_classes))

    def extent(self, split: Split) -> Extent:
        return Extent(self.sizes[split], (3, 32, 32), self.num_classes)

    def folder(self) -> Path:
        return Path(self.root).expanduser()

    def _check_files(self) -> None:
        """InputError for a pipe, a socket or a device among the files, on which torchvision would block."""
        for top in (self.folder() / name for name in self.files):
            for path in (top, *(top.iterdir() if top.is_dir() else ())):
                if path.exists() and not path.is_file() and not path.is_dir():
                    raise InputError(f"{path} is not an ordinary file: remove it to download it again")

    @abstractmethod
    def read(self, split: Split) -> tuple[np.ndarray[Any, Any], Any]:
        """uint8 N,C,H,W and labels, read by torchvision, which verifies checksums."""


class Cifar10(TorchvisionSet, kind="cifar10"):
    """CIFAR-10: 50,000 and 10,000 images of 3x32x32 in 10 classes."""

    published = "md5:c58f30108f718f92721af3b95e74349a"
    files = ("cifar-10-batches-py",)

    def read(self, split: Split) -> tuple[np.ndarray[Any, Any], Any]:
        from torchvision.datasets import CIFAR10  # here, for machines that have no torchvision

        data = CIFAR10(self.folder(), train=split == "train", download=True)
        return np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)), data.targets


class Cifar100(TorchvisionSet, kind="cifar100"):
    """CIFAR-100: 50,000 and 10,000 images of 3x32x32 in 100 classes."""

    published = "md5:eb9058c3a382ffc7106e4002c42a8d85"
    files = ("cifar-100-python",)
    num_classes = 100

    def read(self, split: Split) -> tuple[np.ndarray[Any, Any], Any]:
        from torchvision.datasets import CIFAR100  # here, for machines that have no torchvision

        data = CIFAR100(self.folder(), train=split == "train", download=True)
        return np.ascontiguousarray(data.data.transpose(0, 3, 1, 2)), data.targets


class Svhn(TorchvisionSet, kind="svhn"):
    """SVHN, cropped digits: 73,257 and 26,032 images of 3x32x32 in 10 classes."""

    published = "md5:e26dedcc434d2e4c54c9b2d4a06d8373+eb5a983be6a315427106f1b164d9cef3"
    files = ("train_32x32.mat",)
    sizes: ClassVar[dict[Split, int]] = {"train": 73_257, "test": 26_032}

    def read(self, split: Split) -> tuple[np.ndarray[Any, Any], Any]:
        from torchvision.datasets import SVHN  # here, for machines that have no torchvision

        data = SVHN(self.folder(), split=split, download=True)
        return data.data, data.labels
