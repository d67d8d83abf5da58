"""Sweeps of defenses that restore images: what trials need, what a plan builds and refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.planning.plan import make_plan
from orchestrator.planning.spec import SweepSpec
from orchestrator.storage.trial_spec import TrialSpec
from poisons import Store
from trainers import Images, InputError

TINY = {"kind": "d_vae", "width": 4, "latent": 8, "vae_epochs": 1}


def sweep(defenses: dict[str, Any], **data: Any) -> SweepSpec:
    return SweepSpec.parse(
        {
            "name": "restored",
            "question": "Does it help?",
            "base": {
                "data": {"source": {"kind": "digits", "size": 8}, "poison": "ops", "limit": 60, **data},
                "train": {
                    "architecture": {"kind": "resnet18", "width": 2},
                    "augmentations": [],
                    "epochs": 1,
                    "precision": "float32",
                },
            },
            "grid": {"train.defense": defenses, "seed": [0, 1]},
        },
        "sweep.yaml",
    )


def test_trials_share_the_restored_images(store: Store) -> None:
    plan = make_plan(
        sweep({"none": "erm", "D-VAE": TINY, "D-VAE, AT": [TINY, "pgd_at"]}), store, "sweep.yaml"
    )
    restored = [spec for spec in plan.data if spec.restored_by is not None]
    assert [spec.restored_by.kind for spec in restored if spec.restored_by is not None] == ["d_vae"]
    needs = {task.point.labels["train.defense"]: task.needs[1] for task in plan.tasks}
    assert needs["D-VAE"] == needs["D-VAE, AT"] == restored[0].name != needs["none"]
    names = [spec.name for spec in plan.data]
    assert names.index(needs["none"]) < names.index(needs["D-VAE"])  # it is made from it


def test_the_defense_is_in_the_key_of_the_trial_not_of_its_data() -> None:
    plain, defended = (TrialSpec.parse({"train": {"defense": d}}, "test") for d in ("erm", TINY))
    assert plain.data == defended.data
    assert plain.training_data == plain.data
    assert defended.training_data.restored_by == defended.train.defense


def test_restored_by_follows_from_the_defense(store: Store) -> None:
    with pytest.raises(
        InputError, match=r"restored_by. follows from the defense: leave it out, and write train.defense"
    ):
        make_plan(sweep({"none": "erm"}, restored_by=TINY), store, "sweep.yaml")


@pytest.mark.parametrize(
    ("defense", "data", "message"),
    [
        ({"kind": "eclipse"}, {}, r"eclipse learns from 2000 images that are not trained on, and 1382 of the 1442 are left: write a smaller number of them"),
        ({"kind": "avatar", "learns_from": "held_out", "number": 500}, {"limit": None}, r"0 of the 1442 are left: write data.limit 942 or less"),
        ({"kind": "avatar"}, {"source": {"kind": "digits", "size": 10}}, r"sides must be multiples of 4; found 10x10"),
        (TINY, {"source": {"kind": "digits", "size": 9}}, r"must be even; found 9x9"),
        ([TINY, "avatar"], {}, r"d_vae and avatar each train a network to restore the images: use one of them"),
        ("orthogonal_projection", {"source": {"kind": "digits", "size": 1}}, r"removes a direction for each of 10 classes, and these images have only 3 values"),
        (["jpeg", TINY], {}, r"d_vae changes the images before the training: write it before jpeg"),
    ],
)  # fmt: skip
def test_what_cannot_be_restored_is_refused(
    defense: Any, data: dict[str, Any], message: str, store: Store
) -> None:
    with pytest.raises(InputError, match=message):
        make_plan(sweep({"D": defense}, **data), store, "sweep.yaml")


def test_plans_refuse_jpeg_on_images_of_two_channels(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "two.pt"
    x = torch.zeros((60, 2, 16, 16), dtype=torch.uint8)
    Images(x, torch.arange(60) % 10, 10).save(file)
    source = {"kind": "tensors", "train": str(file), "test": str(file)}
    with pytest.raises(
        InputError, match="jpeg is for grey or RGB images; these have 2 channels: leave it out"
    ):
        make_plan(sweep({"JPEG": "jpeg"}, source=source), store, "sweep.yaml")


def test_enough_held_out_images_are_accepted(store: Store) -> None:
    held = {"kind": "avatar", "learns_from": "held_out", "number": 500}
    plan = make_plan(sweep({"AVATAR": held}), store, "sweep.yaml")
    limits = {spec.limit for spec in plan.data if spec.split == "train"}
    assert limits == {60, 560}
