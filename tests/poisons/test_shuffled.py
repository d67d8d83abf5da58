"""A shuffled data set: each label and its perturbation on another image's content."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from poisons import DataSpec, Store
from poisons.arrow import read_index
from poisons.exchange.card import card
from poisons.exchange.importing import write_import
from poisons.exchange.picture import draw
from poisons.exchange.stored_picture import picture_of
from poisons.methods.imported import Imported
from poisons.perturbations.delta import Delta
from poisons.store import build
from trainers import Images, InputError

IMPORTED = {"kind": "imported", **Imported.smoke}
NOISE = torch.randint(-8, 9, (60, 3, 32, 32), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def store(store: Store) -> Store:
    """With sample-wise noise for 60 digits, made elsewhere."""
    write_import(store.root / "imports" / IMPORTED["fingerprint"], Delta(NOISE.to(torch.int8)), {})
    return store


def spec_of(poison: Any, **changes: Any) -> DataSpec:
    settings = {"poison": poison, "limit": 60, "shuffled": True, **changes}
    return DataSpec.parse(settings, "test").pinned()


def clean_of(spec: DataSpec, store: Store) -> Images:
    clean = store.load(spec.clean)
    assert clean is not None
    return clean


def by_hand(spec: DataSpec, store: Store) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Content and pixels, image by image: another's content, then the noise of the row and the pixel of its
    label."""
    clean = clean_of(spec, store)
    record = store.record(spec.crafted[-1]) or {}
    pixels = {pixel["class"]: pixel for pixel in record["facts"].get("ops", {}).get("pixels", ())}
    order = build.content_rows(spec, len(clean)).tolist()
    content = np.stack([clean.x[i].numpy() for i in order]).astype(int)
    made = content.copy()
    for row, label in enumerate(clean.y.tolist()):
        if spec.poison[0].kind == "imported":
            made[row] = np.clip(made[row] + NOISE[row].numpy(), 0, 255)
        if pixels:
            pixel = pixels[label]
            made[row][:, pixel["row"], pixel["column"]] = pixel["colour"]
    return content, made


@pytest.mark.parametrize("poison", ["ops", IMPORTED, [IMPORTED, "ops"]], ids=["ops", "noise", "both"])
@pytest.mark.parametrize("per_chunk", [7, 60])
def test_each_label_and_its_change_are_on_another_images_content(
    store: Store, monkeypatch: pytest.MonkeyPatch, poison: Any, per_chunk: int
) -> None:
    monkeypatch.setattr(build, "CHUNK", per_chunk * 3 * 32 * 32)
    spec = spec_of(poison)
    made = store.ensure(spec)
    clean = clean_of(spec, store)
    content, expected = by_hand(spec, store)
    assert np.array_equal(made.x.numpy(), expected)
    assert torch.equal(made.y, clean.y), "labels stay in their rows"
    where, order = read_index(clean.file), build.content_rows(spec, 60)  # type: ignore[attr-defined]
    assert sorted(order.tolist()) == list(range(60))
    assert (order != torch.arange(60)).sum() > 50
    assert torch.equal(read_index(made.file), where[order]), "the index is the content's"
    source = spec.source.load("train")
    assert np.array_equal(source.x[read_index(made.file)].numpy(), content)
    change = (store.record(spec) or {})["change"]
    moved = np.abs(expected - content)
    assert change["Linf"]["max"] == moved.max()
    assert change["L0"]["mean"] == pytest.approx((moved.max(1) > 0).sum((1, 2)).mean(), abs=1e-6)
    lengths = [math.sqrt(float((row.astype(float) ** 2).sum())) / 255 for row in moved]
    assert change["L2"]["mean"] == pytest.approx(sum(lengths) / 60, abs=1e-6)


def test_it_uses_the_perturbation_crafted_for_the_unshuffled_images(store: Store) -> None:
    spec = spec_of(["ops", IMPORTED])
    straight = spec.model_copy(update={"shuffled": False})
    assert not spec.crafts
    assert [(p.poison, p.shuffled) for p in spec.parents] == [
        (straight.clean.poison, False), (spec.poison[:1], False), (spec.poison[1:], False)
    ]  # fmt: skip
    store.ensure(spec)
    names = sorted(folder.name for folder in (store.root / "data").iterdir())
    assert names == sorted([spec.name, *(parent.name for parent in spec.parents)])
    one = spec_of("ops")
    assert one.parents[1] == one.model_copy(update={"shuffled": False})
    assert one.parents[1].crafts


def test_it_has_a_key_of_its_own_and_changes_no_other_key(store: Store) -> None:
    spec = spec_of("ops")
    plain = DataSpec.parse({"poison": "ops", "limit": 60}, "test").pinned()
    assert plain.key == spec_of("ops", shuffled=False).key != spec.key
    assert spec.clean.key == plain.clean.key
    again, other = spec_of("ops"), spec_of("ops", seed=1)
    assert torch.equal(build.content_rows(spec, 60), build.content_rows(again, 60))
    assert not torch.equal(build.content_rows(spec, 60), build.content_rows(other, 60))
    store.ensure(spec)
    record = store.record(spec) or {}
    assert DataSpec.parse(record["spec"], "record") == spec
    assert ("shuffled", "each label and perturbation is on the content of another image") in card(record)
    del record["spec"]["shuffled"]
    assert "shuffled" not in dict(card(record)), "a record from before has no such field"


def test_a_poison_crafted_elsewhere_is_applied_to_the_content_of_all_classes(store: Store) -> None:
    spec = spec_of("ops", crafted_on={"kind": "digits"}, limit=None)
    made, clean = store.ensure(spec), clean_of(spec, store)
    assert np.array_equal(made.x.numpy(), by_hand(spec, store)[1])
    same = clean.y[build.content_rows(spec, len(clean))] == made.y
    assert 0.05 < same.double().mean() < 0.15, "one in ten by chance"


def test_its_picture_sets_each_image_beside_its_own_content(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(IMPORTED)
    store.ensure(spec)
    seen: list[tuple[Images, Images]] = []

    def spy(clean: Images, poisoned: Images, *rest: Any) -> bytes:
        seen.append((clean, poisoned))
        return draw(clean, poisoned, *rest)

    monkeypatch.setattr("poisons.exchange.stored_picture.draw", spy)
    assert Image.open(io.BytesIO(picture_of(spec, store))).size > (400, 200)
    ((clean, poisoned),) = seen
    assert sorted(poisoned.y.tolist()) == list(range(10))
    assert (poisoned.x.int() - clean.x.int()).abs().max() <= 8


@pytest.mark.parametrize(
    "changes",
    [{"ratio": 0.5}, {"poison": "clean"}, {"poison": ["clean"], "ratio": 1.0}],
    ids=["ratio", "clean", "clean with a ratio"],
)
def test_a_part_or_nothing_cannot_be_shuffled(changes: dict[str, Any]) -> None:
    with pytest.raises(
        InputError, match="`shuffled` puts every perturbation on another image: leave `ratio`"
    ):
        spec_of(**{"poison": "ops", **changes})
