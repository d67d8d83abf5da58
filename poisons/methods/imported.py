"""A perturbation made elsewhere and imported with `opsctl import`, as a poison."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from poisons import arrow
from poisons.base import CraftContext, Poison
from poisons.durable import unchanged
from poisons.perturbations.delta import Delta, Per
from poisons.records import IMPORT, IMPORT_FILE, RECORD
from trainers.images import Images
from trainers.spec import InputError
from trainers.stored import DamagedError, read_regular

FILE = IMPORT_FILE
NO_FACTS = ("file", "environment", "change", "per")  # fields of its record that are no facts


class Imported(Poison, kind="imported"):
    """A perturbation that `opsctl import` took into the store. One for each image fits only the images that
    it was imported for."""

    needs: ClassVar[str] = "what opsctl import took in"
    bound: ClassVar[str] = "as imported"
    smoke: ClassVar[dict[str, Any]] = {"fingerprint": "0" * 16}
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{16,64}$")]
    """Which perturbation, as `opsctl import` prints it."""
    per: Per = "image"
    """Whether each image or class has its own, or all share one, as `opsctl import` prints it."""

    @property
    def transfers(self) -> bool:
        return self.per != "image"

    @property
    def imports(self) -> str:
        return self.fingerprint

    def craft(self, clean: Images, *, seed: int, context: CraftContext = CraftContext()) -> Delta:
        """InputError if it is not in the store, is damaged, or was imported for other images."""
        found = None if context.imports is None else read_import(context.imports / self.fingerprint)
        if found is None:
            raise no_import(self.fingerprint)
        if found.per != self.per:
            raise InputError(
                f"the imported perturbation {self.fingerprint} is stored with `per: {found.per}`: "
                f"write `per: {found.per}`, not `per: {self.per}`"
            )
        if found.per == "image" and found.facts().get("labels_sha256") not in (None, digest(clean.y)):
            raise InputError(
                f"the imported perturbation {self.fingerprint} is for other images "
                f"({found.facts().get('clean', 'see its record')}), whose labels come in another order: "
                "import it for these"
            )
        return found


def read_import(folder: Path) -> Delta | None:
    """The imported perturbation in `folder`, or None if there is none, or it is damaged."""
    try:
        record = IMPORT.read(read_regular(folder / RECORD, IMPORT.limit) or b"")
        if not unchanged(folder / FILE, record["file"]):
            return None
        delta = Delta.restore(*arrow.read(folder / FILE))
    except (DamagedError, FileNotFoundError):
        return None
    return replace(delta, facts_={name: fact for name, fact in record.items() if name not in NO_FACTS})


def digest(labels: Tensor) -> str:
    """16 hexadecimal digits that identify the labels and their order."""
    return hashlib.sha256(labels.cpu().numpy().tobytes()).hexdigest()[:16]


def no_import(fingerprint: str) -> InputError:
    """The error for a perturbation that was never imported, or is damaged."""
    return InputError(
        f"the imported perturbation {fingerprint} is missing from the store or damaged: import it with "
        "`opsctl import FILE`, into the same store"
    )
