"""DataSpec: the definition of a data set."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveInt, field_validator, model_validator

from poisons.base import Poison
from poisons.methods.clean import Clean
from poisons.sources.base import Source, Split
from poisons.sources.digits import Digits
from trainers.families import Defense
from trainers.images import Extent
from trainers.restoration import Restoration
from trainers.spec import InputError, Spec

CLEAN = (Clean(),)
DEFAULTS = {"ratio": 1.0, "crafted_on": None, "shuffled": False, "restored_by": None}


def check_transfer(crafted_on: Extent, images: Extent) -> None:
    """InputError if perturbations crafted on images of one extent cannot be applied to those of another."""
    there, here = ((one.num_classes, *one.shape) for one in (crafted_on, images))
    if there != here:
        raise InputError(
            f"a poison crafted on {there[0]} classes of {there[1:]} cannot be applied to {here[0]} classes "
            f"of {here[1:]}: `crafted_on` takes images of the same classes and shape"
        )


class DataSpec(Spec):
    """A data set: images of a source, poisoned by one poison or a chain of them.

    A poison that is crafted on another source (at most `limit` of its training images) has to be the same for
    a whole class. From shuffled images a network can only recognise the perturbation.
    """

    one_or_many: ClassVar[tuple[str, ...]] = ("poison",)
    internal: ClassVar[frozenset[str]] = frozenset({"restored_by"})
    source: Source = Digits()
    """Where the clean images come from."""
    split: Split = "train"
    """Training or test images; test images are never poisoned."""
    poison: tuple[Poison, ...] = CLEAN
    """The poison, or a chain, each crafted from the clean images and applied in this order."""
    ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of each class that is poisoned; a smaller share is part of a larger one."""
    crafted_on: Source | None = None
    """Another source of the same classes, to craft the poison on; null crafts on `source`."""
    limit: PositiveInt | None = None
    """Size of a class-balanced subset of the source's images; null takes all."""
    shuffled: bool = False
    """Whether each label and perturbation is put on the content of another image, of any class."""
    seed: int = 0
    """Seed of the poison, of the images that `ratio` and `shuffled` draw, and of the restoration."""
    restored_by: Defense | None = None
    """Defense that has restored the images; in a sweep it follows from `train.defense`."""

    @field_validator("poison", mode="before")
    @classmethod
    def _one_is_a_chain(cls, value: Any) -> Any:
        return value if isinstance(value, tuple | list) else (value,)

    @model_validator(mode="before")
    @classmethod
    def _clean_is_clean(cls, value: Any) -> Any:
        """Drop `ratio` and `crafted_on` for clean images, so that they have only one key. (`seed` stays, else
        a grid of seeds would have equal points.)"""
        poison = value.get("poison", "clean") if isinstance(value, dict) else None
        if poison in ("clean", {"kind": "clean"}, ["clean"], [{"kind": "clean"}], Clean(), CLEAN):
            return {name: v for name, v in value.items() if name not in ("ratio", "crafted_on")}
        return value

    @model_validator(mode="after")
    def _sensible(self) -> DataSpec:
        kinds = [poison.kind for poison in self.poison]
        if not kinds or (len(kinds) > 1 and "clean" in kinds):
            raise ValueError("`poison` is one poison or a chain of them; `clean` stands alone")
        if self.split == "test" and kinds != ["clean"]:
            raise ValueError("test images are never poisoned: use `split: train`")
        if self.shuffled and (self.ratio != 1 or kinds == ["clean"]):
            raise ValueError(
                "`shuffled` puts every perturbation on another image: leave `ratio` at 1 and name a poison "
                "other than `clean`"
            )
        if self.restored_by is not None and self.restored_by.restoration is not self.restored_by:
            raise ValueError(f"`restored_by`: {self.restored_by.kind} trains no network to restore images")
        if self.split == "test" and self.restored_by is not None:
            raise ValueError("test images are never restored: use `split: train`")
        bound = [poison.kind for poison in self.poison if not poison.transfers]
        if self.crafted_on is not None and bound:
            raise ValueError(
                f"`crafted_on`: {bound[0]!r} with these settings is one change per image, so it cannot be "
                "applied to other images; use one that is the same for a class (ops, randpix, em with "
                "`granularity: class_wise`)"
            )
        return self

    @property
    def name(self) -> str:
        """The name of the folder: readable words, then the key."""
        by = [] if self.restored_by is None else [self.restored_by.kind]
        return "-".join(
            [self.source.kind, *(poison.kind for poison in self.poison), *by, self.split, self.key]
        )

    @property
    def crafts(self) -> bool:
        """Whether the poison is crafted for this data set; otherwise a perturbation from such a data set is
        applied."""
        return self.poison != CLEAN and self._copy(source=self.source, poison=self.poison[:1]) == self

    @property
    def restoration(self) -> Restoration | None:
        """The restoration that has restored the images."""
        return None if self.restored_by is None else self.restored_by.restoration

    def restored(self, by: Restoration | None) -> DataSpec:
        """These images, restored by a defense; with None the images before any restoration."""
        return self.model_copy(update={"restored_by": by})

    @property
    def learnt_from(self) -> str:
        """The images that a network for this data set learns from, as text that names them and no others."""
        wanted = None if self.restoration is None else self.restoration.clean_images
        if self.restoration is not None and wanted is None:
            return self.restored(None).name
        if self.references is None or wanted is None or wanted.origin == "clean":
            return self.clean.name
        return f"{self.references.name} without {self.clean.name}"

    @property
    def shares(self) -> str | None:
        """The name of a network that is trained for this data set and others, if there is one: a builder that
        comes later finds it."""
        method = self.restoration or (self.poison[0] if self.crafts else None)
        if method is None or method.shared is None:
            return None
        seed = f", seed {self.seed}" if self.restoration is not None else ""
        digest = hashlib.sha256(f"{method.shared}{seed}, {self.learnt_from}".encode()).hexdigest()
        return f"network-{digest[:16]}"

    @property
    def references(self) -> DataSpec | None:
        """The clean images that the restoration learns from; None if it needs none. Those held out are the
        last of a larger balanced subset, of which the images of this data set are the first."""
        wanted = None if self.restoration is None else self.restoration.clean_images
        if wanted is None:
            return None
        if wanted.origin == "clean" or self.limit is None:
            return self.clean
        return self.clean.model_copy(update={"limit": self.limit + (wanted.number or 0)})

    @property
    def clean(self) -> DataSpec:
        """The clean images under this data set."""
        return self._copy(source=self.source, poison=CLEAN, seed=0)

    @property
    def crafted(self) -> tuple[DataSpec, ...]:
        """The data sets whose perturbations are applied, one for each poison of the chain."""
        if self.poison == CLEAN:
            return ()
        return tuple(self._copy(source=self.crafted_on or self.source, poison=(p,)) for p in self.poison)

    @property
    def parents(self) -> tuple[DataSpec, ...]:
        """The data sets that this one is made from, each once: the clean images, and those with the
        perturbations; or the images before their restoration, and those that it learns from."""
        if self.restored_by is not None:
            made_from = [self.clean, self.restored(None), *filter(None, (self.references,))]
        elif self.poison == CLEAN:
            return ()
        else:
            made_from = [self.clean, *(() if self.crafts else self.crafted)]
        return tuple(spec for i, spec in enumerate(made_from) if spec not in made_from[:i])

    @property
    def wants_gpu(self) -> bool:
        return self.restored_by is not None or (self.crafts and self.poison[0].wants_gpu)

    def pinned(self, pin: Callable[[Source], Source] = lambda source: source.pinned()) -> DataSpec:
        """A copy with the fingerprints of its sources filled in, which gives it a key."""
        found = {"source": pin(self.source)}
        if self.crafted_on is not None:
            found["crafted_on"] = pin(self.crafted_on)
        return self.model_copy(update=found)

    def _copy(self, **changes: Any) -> DataSpec:
        return self.model_copy(update={**DEFAULTS, **changes})

    def _in_key(self, name: str, value: Any) -> bool:
        return name == "source" or super()._in_key(name, value)  # the default does not determine the bytes
