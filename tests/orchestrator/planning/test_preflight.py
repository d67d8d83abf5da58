"""The plan refuses settings that must fail, before a data set is built, and says what to write instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.execution.ray.run import run_plan
from orchestrator.execution.trial import run_trial
from orchestrator.monitoring.observer import Observer
from orchestrator.planning.caveats import remarks
from orchestrator.planning.preflight import Preflight
from orchestrator.planning.probes import SweepProbes
from orchestrator.planning.spec import ProbeSpec, RunSpec
from orchestrator.storage.ledger import Ledger
from poisons import Store
from poisons.sources.base import Source
from tests.conftest import CPU, Opsctl
from tests.orchestrator.sweeps import TRAIN, plan_of, tiny, write
from trainers import Images, InputError, last_batch, meta
from trainers.architectures.library import LibraryModel
from trainers.attacks import auto_attack

RESNET18 = {"kind": "torchvision", "name": "resnet18"}
SMALL = {"source": {"kind": "digits", "size": 8}}
LONE = {"data": {"limit": 17}, "train": {**TRAIN, "architecture": RESNET18, "batch_size": 16}}


def sweep(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return tiny(base=base, grid={"seed": [0]}, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"base": LONE},
            r"test: the trial \(seed=0\): train.batch_size 16 leaves a last batch of 1 of 17 images, .*: write "
            "train.batch_size 15 or 17, or data.limit 16",
        ),
        (
            {
                "base": {**LONE, "data": {"limit": 16}},
                "probes": [{"kind": "fine_tune", "sets": {"a": {"limit": 17}}}],
            },
            "the probe 'fine_tune' cannot be trained on the set 'a': train.batch_size 16 leaves",
        ),
        (
            {
                "base": {
                    "data": {
                        "limit": 17,
                        "poison": {"kind": "em", "generator": RESNET18, "batch_size": 16},
                    },
                    "train": TRAIN,
                }
            },
            "the data set digits-em-train-[0-9a-f]*: batch_size of the poison 16 leaves a last batch of 1 of 17",
        ),
        (
            {
                "base": {
                    "train": TRAIN,
                    "evaluation": {"attacks": [{"kind": "pgd", "budget": {"norm": "L2", "eps": "100"}}]},
                }
            },
            "no two 3x32x32 images in .* further apart than 55.43",
        ),
        (
            {"base": {"data": SMALL, "train": {**TRAIN, "architecture": "lenet5"}}},
            r"test: the trial \(seed=0\): lenet5 needs images of at least 16x16 pixels, found 8x8",
        ),
        (
            {"base": {"train": {**TRAIN, "architecture": {**RESNET18, "options": {"depth": 1}}}}},
            r"torchvision's 'resnet18' cannot be trained on 32x32 images of 3 channels: .*'depth'",
        ),
        *(
            (
                {"base": {"data": {**SMALL, "poison": poison}, "train": {**TRAIN, "architecture": RESNET18}}},
                "the data set digits-[0-9a-z_-]*: lenet5 needs images of at least 16x16 pixels, found 8x8",
            )
            for poison in (
                {"kind": "em", "generator": "lenet5"},
                {"kind": "rem", "generator": "lenet5"},
                {"kind": "mi_ue", "generator": "lenet5"},
                {"kind": "tap", "surrogate": {"architecture": "lenet5"}},
            )
        ),
        (
            {"base": {"data": {"poison": {"kind": "ops", "pixels": 8193}}, "train": TRAIN}},
            "the data set digits-ops-[0-9a-z_-]*: ops: 8,193 pixels of a class, .* have room for 8,192",
        ),
        (
            {"base": {"data": {"poison": "ops", "crafted_on": SMALL["source"]}, "train": TRAIN}},
            r"the data set digits-ops-.*: a poison crafted on 10 classes of \(3, 8, 8\) cannot be applied to 10 "
            r"classes of \(3, 32, 32\): `crafted_on` takes images of the same classes and shape",
        ),
        (
            {
                "base": {
                    "data": {"poison": [{"kind": "imported", "fingerprint": "0" * 16}, "ops"]},
                    "train": TRAIN,
                }
            },
            "the data set digits-imported-.*: the imported perturbation 0{16} is missing from the store .*: import it",
        ),
        (
            {"base": {"train": TRAIN, "evaluation": {"limit": 2}}, "probes": ["early_stopping"]},
            "early_stopping: a share of 0.2 of 2 test images leaves one part empty",
        ),
    ],
)
def test_settings_that_must_fail_are_refused(changes: dict[str, Any], message: str, store: Store) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(tiny(grid={"seed": [0]}, **changes), store)
    assert list(store.root.glob("data/*")) == []


def test_settings_that_can_be_trained_are_planned(store: Store) -> None:
    for train in ({"batch_size": 15}, {"batch_size": 17}, {"architecture": "lenet5"}):
        assert plan_of(sweep({**LONE, "train": {**LONE["train"], **train}}), store).missing
    em = {"kind": "em", "generator": RESNET18, "batch_size": 16, "drop_last": True}
    assert plan_of(sweep({"data": {"limit": 17, "poison": em}, "train": TRAIN}), store).missing


def test_a_probe_of_kept_weights_is_checked_too(store: Store) -> None:
    plain = sweep({"data": {"limit": 40}, "train": TRAIN})
    (task,) = plan_of(plain, store).tasks
    run_trial(task.trial, store, device=CPU, run=RunSpec(keep="weights"))
    impossible = {"kind": "linear_separability", "sets": {"clean": {"poison": "clean", "limit": 20}}}
    with pytest.raises(InputError, match=r"test: the trial \(seed=0\): .*linear_separability"):
        plan_of(plain | {"probes": [impossible]}, store)
    probes = SweepProbes(
        [ProbeSpec.parse(one, "test") for one in ("distance", impossible)],
        "test",
        Source.pinned,
        lambda _: None,
    ).of(task.trial.data)
    with pytest.raises(InputError, match="linear_separability"):
        run_trial(task.trial, store, device=CPU, probes=probes)
    assert Ledger(store.where).finding(task.key, probes[0].key) is None, (
        "it was found out before anything was done"
    )


def test_a_network_whose_library_is_missing_here_is_planned(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LibraryModel, "available", False)
    monkeypatch.setattr(meta, "_built", {})
    architecture = {**RESNET18, "options": {"depth": 1}}
    assert plan_of(sweep({"train": {**TRAIN, "architecture": architecture}}), store).missing


def test_trials_that_differ_only_in_their_seeds_are_checked_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, check = [], Preflight.trial
    monkeypatch.setattr(
        Preflight, "trial", lambda self, *args, **rest: (seen.append(args[2]), check(self, *args, **rest))
    )
    plan_of(tiny(grid={"train.batch_size": [8, 16], "seed": [0, 1, 2], "data.seed": [0, 1]}), store)
    assert seen == [
        "the trial (train.batch_size=8, seed=0, data.seed=0)",
        "the trial (train.batch_size=16, seed=0, data.seed=0)",
    ]


def tensors(folder: Path, name: str, images: Images) -> str:
    file = folder / f"{name}.pt"
    images.save(file)
    return str(file)


def test_the_plan_refuses_test_images_of_other_classes(tmp_path: Path, store: Store, images: Images) -> None:
    train = tensors(tmp_path, "train", images)
    test = tensors(tmp_path, "test", Images(images.x, images.y, 5))
    source = {"kind": "tensors", "train": train, "test": test}
    with pytest.raises(InputError, match=r"3x32x32 in 4 classes, but .* 3x32x32 in 5"):
        plan_of(sweep({"data": {"source": source}, "train": {**TRAIN, "batch_size": 4}}), store)


def test_auto_attack_on_two_classes_records_what_it_left_out(
    tmp_path: Path, images: Images, opsctl: Opsctl
) -> None:
    pytest.importorskip("pyautoattack")
    two = Images(images.x[:12], images.y[:12] % 2, 2)
    source = {"kind": "tensors", **{split: tensors(tmp_path, split, two) for split in ("train", "test")}}
    attacks = [{"kind": "auto_attack", "budget": {"eps": "1/255"}}]
    train = {**TRAIN, "batch_size": 4}
    base = {"data": {"source": source}, "train": train, "evaluation": {"attacks": attacks}}
    file = write(tmp_path, sweep(base))
    store = Store(tmp_path / "store")
    (task,) = plan_of(sweep(base), store).tasks
    record = run_trial(task.trial, store, device=CPU)
    without = {"apgd-t": "at least 4 classes, these images have 2"}
    assert record["attacks"] == {"test/auto_attack_Linf_1_255_acc": {"images": 12, "left_out": without}}
    code, out, _ = opsctl("status", file)
    assert code == 0
    assert "auto_attack_Linf_1_255 without apgd-t: it needs at least 4 classes, these images have 2" in out


def test_a_missing_package_is_reported_by_the_plan_and_stops_a_local_sweep(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto_attack, "find_spec", lambda _: None)
    attacked = sweep({"train": TRAIN, "evaluation": {"attacks": ["auto_attack"]}})
    plan = plan_of(attacked, store)
    (remark,) = remarks(plan)
    assert remark == (
        "this machine cannot run all of the trials: auto_attack needs a package: pip install pyautoattack"
    )
    with pytest.raises(InputError, match="auto_attack needs a package: pip install pyautoattack"):
        run_plan(plan, store, Observer())
    assert list(store.root.glob("data/*")) == []


def test_a_large_plan_tries_each_network_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 trials whose last batch is a single image, of one architecture that accepts it."""
    monkeypatch.setattr(last_batch, "_known", {})
    lenet = {**LONE["train"], "architecture": "lenet5"}
    plan = plan_of(tiny(base={**LONE, "train": lenet}, grid={"seed": [*range(200)]}), store)
    assert len(plan.missing) == 200
    assert len(last_batch._known) == 1
