"""Trees of image files, read like torchvision's ImageFolder: the same suffixes and order, links followed.
Skipped files are listed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from poisons.sources.base import Skipped
from trainers.spec import InputError
from trainers.stored import DamagedError, open_file

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
SHOWN = 5  # names of skipped files that are listed
Identity = tuple[int, int]  # of a folder: device and inode


@dataclass
class Tree:
    """The files under some folders: `images` in order, and the skipped ones: other files and hidden ones."""

    images: list[Path] = field(default_factory=list)
    other: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)

    def skipped(self, root: Path) -> tuple[Skipped, ...]:
        """The skipped files, by reason, with names relative to `root`."""
        reasons = {f"not a {', '.join(SUFFIXES)}": self.other, "hidden": self.hidden}
        return tuple(skipped(reason, files, root) for reason, files in reasons.items() if files)


def skipped(reason: str, files: Iterable[Path], root: Path) -> Skipped:
    names = sorted(shown(file.relative_to(root)) for file in files)
    return Skipped(reason=reason, count=len(names), examples=names[:SHOWN])


def images_under(folder: Path) -> Tree:
    """The images in a folder and in those inside it, in torchvision's order: the files of a folder by name,
    folders by path. Links are followed; InputError for a broken link, or one to a folder that contains it."""
    tree, files = Tree(), dict[str, list[Path]]()
    outside = tuple(_identity(place) for place in (folder, *folder.absolute().parents))
    waiting: list[tuple[Path, str, tuple[Identity, ...]]] = [(folder, "", outside)]
    while waiting:
        here, name, above = waiting.pop()
        files[name] = []
        for entry in entries(here):
            path = here / entry.name
            if entry.name.startswith("."):
                tree.hidden.append(path)
            elif entry.is_dir():
                inside = _identity(path)
                if inside in above:
                    raise InputError(f"{shown(path)} is a link to a folder that contains it: remove it")
                waiting.append((path, os.path.join(name, entry.name), (*above, inside)))
            elif not is_image(entry.name):
                tree.other.append(path)
            elif entry.is_file():
                files[name].append(path)
            else:
                raise InputError(f"{shown(path)} has the name of an image but is not a file: remove it")
    tree.images = [path for name in sorted(files) for path in files[name]]
    return tree


def entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder, by name. InputError if it cannot be read, or has a broken link."""
    try:
        with os.scandir(folder) as found:
            listed = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{shown(folder)} cannot be read: {error.strerror}") from None
    for entry in listed:
        if entry.is_symlink() and not entry.name.startswith(".") and not os.path.exists(entry.path):
            target = os.readlink(entry.path)
            raise InputError(f"{shown(folder / entry.name)} is a link to {target}, which does not exist")
        yield entry


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def read_bytes(file: Path) -> bytes:
    """InputError if it cannot be read."""
    try:
        with open_file(file, links=True) as stream:
            return stream.read()
    except (OSError, DamagedError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{shown(file)} cannot be read: {reason}") from None


def shown(path: Path) -> str:
    """A printable path: file names may contain bytes that are not text."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _identity(folder: Path) -> Identity:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino
