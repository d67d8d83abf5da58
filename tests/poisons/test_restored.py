"""Data sets that a defense restores: built once, from the poisoned images, with what is left of the poison."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from poisons import CraftContext, DataSpec, Store
from poisons.exchange.card import card, markdown
from poisons.exchange.stored_picture import picture_of
from poisons.store.restore import held_out, perturbation_left
from trainers import Images, InputError
from trainers.defenses.avatar import Avatar
from trainers.defenses.d_vae import DVae
from trainers.defenses.eclipse import Eclipse
from trainers.families import Defense
from trainers.flops import Work
from trainers.restoration import CleanImages, Restoration, RestorationContext, Restored

TINY = DVae.parse(DVae.smoke, "test")
SOURCE = {"kind": "digits", "size": 8}


def data(restoration: Restoration | None, **fields: Any) -> DataSpec:
    spec = DataSpec.parse({"source": SOURCE, "poison": "ops", "limit": 60, **fields}, "test").pinned()
    return spec.restored(restoration)


class Halfway(Restoration, kind="halfway"):
    """Takes half of the perturbation away, with the clean images at hand."""

    @property
    def clean_images(self) -> CleanImages | None:
        return CleanImages("clean")

    def restore(self, images: Images, clean: Images | None, context: RestorationContext) -> Restored:
        assert clean is not None
        return Restored(
            Images((images.x.int() + clean.x).div(2).to(torch.uint8), images.y, images.num_classes)
        )

    def work(self, images: int, **_: Any) -> Work:
        return Work()


del Defense.registry["halfway"]  # a test's own: in no table and no golden file


def test_it_is_a_data_set_of_its_own_beside_the_poisoned_one(store: Store) -> None:
    spec, rows = data(TINY), list[dict[str, Any]]()
    images = store.ensure(spec, CraftContext(report=rows.append))
    poisoned, clean = store.load(data(None)), store.load(spec.clean)
    assert poisoned is not None
    assert clean is not None
    assert spec.name.startswith("digits-ops-d_vae-train-")
    assert [parent.name for parent in spec.parents] == [spec.clean.name, data(None).name]
    assert torch.equal(images.y, poisoned.y)
    assert not torch.equal(images.x, poisoned.x)
    assert rows == [{"stage": s, "epoch": 1, "loss": rows[s - 1]["loss"]} for s in (1, 2)]
    record = store.record(spec)
    assert record is not None
    assert record["facts"]["d_vae"]["epochs"] == rows
    assert record["facts"]["ops"]["pixels"]
    assert record["change"]["images"] == 60
    assert DataSpec.parse(record["spec"], "record") == spec
    assert store.find(spec.key) == spec


def test_a_store_builds_the_same_bytes_again(store: Store, tmp_path: Any) -> None:
    assert torch.equal(store.ensure(data(TINY)).x, Store(tmp_path / "other").ensure(data(TINY)).x)


def test_other_data_sets_keep_their_keys() -> None:
    spec = data(None)
    assert spec.restored(None).key == spec.key
    keys = {
        one.key
        for one in (spec, data(TINY), data(TINY, seed=1), data(DVae(width=5)), data(TINY, poison="clean"))
    }
    assert len(keys) == 5
    assert data(TINY).clean == spec.clean
    assert data(TINY).wants_gpu
    assert not data(TINY).crafts


def test_what_is_left_of_the_perturbation(store: Store) -> None:
    spec = data(Halfway())
    store.ensure(spec)
    record = store.record(spec)
    assert record is not None
    assert record["facts"]["halfway"]["perturbation_left"] == pytest.approx(0.5, abs=0.01)
    whole = store.load(data(None))
    clean = store.load(spec.clean)
    assert whole is not None
    assert clean is not None
    assert perturbation_left(spec, clean, whole, whole) == {"perturbation_left": 1.0}
    assert perturbation_left(spec, clean, whole, clean) == {"perturbation_left": 0.0}
    assert perturbation_left(spec, clean, clean, whole) == {}


class Undone(Halfway, kind="undone"):
    """Changes nothing."""

    def restore(self, images: Images, clean: Images | None, context: RestorationContext) -> Restored:
        return Restored(images)


del Defense.registry["undone"]


def test_shuffled_images_are_compared_with_the_content_under_them(store: Store) -> None:
    """One pixel was written on the content; compared with other content, everything would differ."""
    spec = data(Undone(), shuffled=True)
    store.ensure(spec)
    record = store.record(spec)
    assert record is not None
    assert record["facts"]["undone"]["perturbation_left"] == 1
    assert record["change"]["L0"]["max"] == 1
    assert record["change"] == (store.record(spec.restored(None)) or {})["change"]


def test_the_clean_images_that_it_learns_from_are_others(store: Store) -> None:
    given: list[Images | None] = []

    class Curious(Halfway, kind="curious"):
        @property
        def clean_images(self) -> CleanImages | None:
            return CleanImages("held_out", 40)

        def restore(self, images: Images, clean: Images | None, context: RestorationContext) -> Restored:
            given.append(clean)
            return Restored(images)

    spec = data(Curious())
    store.ensure(spec)
    (found,) = given
    assert found is not None
    assert len(found) == 40
    own = store.load(spec.clean)
    assert own is not None
    pixels = {tuple(one.flatten().tolist()) for one in own.x}
    assert not [one for one in found.x if tuple(one.flatten().tolist()) in pixels]
    assert spec.references is not None
    assert spec.references.limit == 100
    assert spec.references in spec.parents
    del Defense.registry["curious"]


def test_held_out_images_are_those_whose_rows_are_not_known() -> None:
    images = Images(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1), torch.arange(5), 5)
    assert held_out(images, torch.tensor([7, 3, 9, 1, 4]), torch.tensor([3, 4])).y.tolist() == [0, 2, 3]


def test_its_card_and_picture_show_what_it_did(store: Store) -> None:
    spec = data(TINY)
    store.ensure(spec)
    record = store.record(spec)
    assert record is not None
    lines = dict(card(record))
    assert lines["restored by"].startswith("d_vae (")
    assert "d_vae: perturbation left" in lines
    assert markdown(record).startswith("# digits (train), poison: ops, restored by d_vae")
    assert len(picture_of(spec, store)) > len(picture_of(data(None), store))


def test_only_what_restores_training_images_is_accepted() -> None:
    with pytest.raises(InputError, match=r"restored_by.*: jpeg trains no network to restore images"):
        DataSpec.parse({"restored_by": "jpeg"}, "test")
    with pytest.raises(InputError, match="test images are never restored"):
        DataSpec.parse({"restored_by": "d_vae", "split": "test"}, "test")


def test_a_killed_build_resumes(store: Store) -> None:
    class KilledError(Exception):
        pass

    spec = data(DVae(width=4, latent=8, vae_epochs=3))
    file = store.root / "checkpoints" / f"data-{spec.key}.pt"

    def killed(row: dict[str, Any]) -> None:
        if row["stage"] == 2:
            raise KilledError

    store.checkpoint = lambda name, *, every=0.0, data="": type(store).checkpoint(
        store, name, every=0.0, data=data
    )  # type: ignore[method-assign]
    with pytest.raises(KilledError):
        store.ensure(spec, CraftContext(report=killed))
    assert file.exists()
    resumed = store.ensure(spec)
    assert not file.exists()
    assert torch.equal(resumed.x, Store(store.root.parent / "other").ensure(spec).x)


def test_avatar_without_clean_images_outside_a_sweep_says_so(images: Images) -> None:
    from trainers import TrainSpec
    from trainers.loop import prepared

    spec = TrainSpec(defense=Avatar())
    with pytest.raises(InputError, match="avatar learns from clean images, which only a sweep has"):
        prepared(spec, images, seed=0, device=torch.device("cpu"))
    assert prepared(spec, images, seed=0, device=torch.device("cpu"), restored=True) is images


def test_a_denoiser_of_clean_images_is_trained_once(store: Store) -> None:
    rows: list[dict[str, Any]] = []
    settings = {**Avatar.smoke, "learns_from": "clean"}
    first, other, longer = (
        Avatar.parse({**settings, **more}, "test") for more in ({}, {"time": 7}, {"denoiser_epochs": 2})
    )
    for spec in (data(first), data(first, poison="randpix"), data(other), data(longer)):
        store.ensure(spec, CraftContext(report=rows.append))
    assert [row["epoch"] for row in rows if "epoch" in row] == [1, 1, 2]
    reused = [(store.record(spec) or {})["facts"]["avatar"]["reused"] for spec in (data(first), data(other))]
    assert reused == [False, True]
    again = Store(store.root.parent / "other").ensure(data(other))
    found = store.load(data(other))
    assert found is not None
    assert torch.equal(found.x, again.x)


def test_a_denoiser_is_that_of_the_images_learnt_from(store: Store, tmp_path: Any) -> None:
    """Others with the same images in all, of which other ones are held out, are other denoisers."""
    settings = {**Avatar.smoke, "learns_from": "held_out"}
    specs = [
        data(Avatar.parse({**settings, "number": 40}, "test"), limit=60),
        data(Avatar.parse({**settings, "number": 70}, "test"), limit=30),
        data(Avatar.parse({**settings, "learns_from": "clean"}, "test"), limit=100),
        data(Avatar.parse({**settings, "learns_from": "training"}, "test"), limit=100),
    ]
    assert len({spec.shares for spec in specs}) == 4
    for i, spec in enumerate(specs):
        alone = Store(tmp_path / f"alone{i}").ensure(spec)
        assert torch.equal(store.ensure(spec).x, alone.x)


def test_too_few_images_to_learn_from_are_no_others(store: Store) -> None:
    few = Avatar.parse({**Avatar.smoke, "learns_from": "held_out", "number": 500}, "test")
    for limit, left in ((None, 0), (1400, 42)):
        with pytest.raises(
            InputError, match=f"learns from 500 images that are not trained on, and {left} are left"
        ):
            store.ensure(data(few, limit=limit))


def test_settings_that_do_not_change_the_images_are_not_in_their_key() -> None:
    a, b = (Eclipse.parse({"kind": "eclipse", "grey": grey}, "test") for grey in (0.1, 0.4))
    assert a.key != b.key
    assert a.canonical == b.canonical
    assert Avatar(number=7).canonical == Avatar()
    held = Avatar(learns_from="held_out", number=7)
    assert held.canonical == held
