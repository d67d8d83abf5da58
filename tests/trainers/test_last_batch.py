"""A training that ends its epochs with a single image either runs, or is refused before its first step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import CPU
from trainers import Images, InputError
from trainers.families import Architecture
from trainers.images import Extent
from trainers.last_batch import check_last_batch, last_batch, nearest_sizes, refusal_of_one
from trainers.loop import fit
from trainers.probe import Probe, ProbeRun
from trainers.recipe import TrainSpec
from trainers.trial import Trial

RESNET18 = {"kind": "torchvision", "name": "resnet18"}
ROWS = list[dict[str, float]]


def some(number: int, shape: tuple[int, int, int] = (3, 32, 32), num_classes: int = 4) -> Images:
    x = torch.randint(256, (number, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(x, torch.arange(number) % num_classes, num_classes)


def members() -> list[dict[str, Any]]:
    """Every architecture in a small form, networks of torchvision with and without BatchNorm, and one that
    normalises in groups. ResNets are 16 wide: of few channels, float32 kernels of torch 2.15 for strided 1x1
    convolutions write past their memory."""
    small: list[dict[str, Any]] = [{"kind": k, **m.smoke} for k, m in Architecture.registry.items()]
    small = [
        {**one, "width": 16} if "resnet" in one["kind"] and one.get("width") == 4 else one for one in small
    ]
    names = ("resnet18", "vgg11", "vgg11_bn", "convnext_tiny", "shufflenet_v2_x0_5")
    return small + [{"kind": "torchvision", "name": name} for name in names]


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8)], ids=str)
@pytest.mark.parametrize("member", members(), ids=lambda m: f"{m['kind']}-{m.get('name', '')}")
def test_the_check_refuses_what_torch_refuses(member: dict[str, Any], shape: tuple[int, int, int]) -> None:
    """Against trainings: on 3 images in batches of 2, and for comparison of 3."""
    recipe = {"architecture": member, "epochs": 1, "augmentations": [], "precision": "float32"}
    images = some(3, shape)

    def trains(batch_size: int) -> bool:
        spec = TrainSpec.parse({**recipe, "batch_size": batch_size}, "test")
        try:
            fit(spec, images, images, seed=0, device=CPU)
        except (ValueError, RuntimeError):  # torch's, or that a network does not take such images
            return False
        return True

    if not trains(3):
        pytest.skip("it does not take such images at all")
    architecture = TrainSpec.parse(recipe, "test").architecture
    state = torch.get_rng_state()
    refused = refusal_of_one(architecture, shape=shape, num_classes=4) is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert refused is not trains(2)


@given(images=st.integers(2, 300), batch_size=st.integers(2, 300))
def test_suggested_batch_sizes_leave_no_single_image(images: int, batch_size: int) -> None:
    assert last_batch(images, batch_size) == len(torch.arange(images).split(batch_size)[-1])
    advised = nearest_sizes(images, batch_size)
    assert all(last_batch(images, size) > 1 for size in advised)
    if last_batch(images, batch_size) == 1:
        assert advised
        assert last_batch(images - 1, batch_size) > 1 or images == 2


def test_it_says_what_to_write() -> None:
    architecture = TrainSpec.parse({"architecture": RESNET18}, "test").architecture

    def advice(images: int, batch_size: int) -> str:
        with pytest.raises(InputError) as refused:
            check_last_batch(architecture, Extent(images, (3, 32, 32), 10), batch_size)
        return str(refused.value)

    assert advice(17, 16).startswith("train.batch_size 16 leaves a last batch of 1 of 17 images, and this")
    assert "cannot be trained on a single 3x32x32 image (Expected more than 1 value per channel" in advice(
        17, 16
    )
    assert advice(17, 16).endswith("write train.batch_size 15 or 17, or data.limit 16")
    assert "there is 1 image to train on" in advice(1, 16)
    assert advice(40, 1).endswith("write train.batch_size 2 or more")
    for images, batch_size in ((17, 15), (17, 17), (16, 16), (2, 16)):
        check_last_batch(architecture, Extent(images, (3, 32, 32), 10), batch_size)
    check_last_batch(architecture, Extent(17, (3, 64, 64), 10), 16)  # its last features are 2x2


def refused(trial: dict[str, Any], train: Images, test: Images, *probe_runs: ProbeRun) -> str:
    """The error of a trial that was refused before its first epoch."""
    rows: ROWS = []
    with pytest.raises(InputError) as error:
        Trial.parse(trial, "test").run(train, test, device=CPU, report=rows.append, probe_runs=probe_runs)
    assert rows == []
    return str(error.value)


def test_a_trial_is_refused_before_its_first_step() -> None:
    train = {"architecture": RESNET18, "epochs": 1, "batch_size": 16}
    assert "leaves a last batch of 1 of 17 images" in refused({"train": train}, some(17), some(4))
    assert "there is 1 image to train on" in refused({"train": train}, some(1), some(4))
    lenet = {"architecture": "lenet5", "epochs": 1, "batch_size": 16}
    assert "there are no images to train on" in refused({"train": lenet}, some(0), some(4))
    assert "there are no test images" in refused({"train": lenet}, some(17), some(0))


def test_probes_are_refused_before_the_training() -> None:
    """What they need of the images is known before; they used to fail when the training was over."""
    train = {"architecture": RESNET18, "epochs": 1, "batch_size": 16}
    images = some(16)
    wrong = Images(images.x, (images.y + 1) % 4, 4)

    def refused_probe(sets: dict[str, Images] | None = None, **probe: Any) -> str:
        return refused(
            {"train": train}, images, some(8), ProbeRun("x", Probe.parse(probe, "test"), sets or {})
        )

    assert "cannot be trained on the set 'ops': train.batch_size 16 leaves" in refused_probe(
        {"ops": some(17)}, kind="fine_tune"
    )
    assert "write limit: 2" in refused_probe(kind="loss_surface", batch_norm="recomputed", limit=1)
    assert "leaves one part empty" in refused_probe(kind="early_stopping", share=0.01)
    assert "does not hold the images" in refused_probe({"clean": wrong}, kind="linear_separability")
    assert "nothing is left of class 0" in refused_probe(
        {"clean": images}, kind="linear_separability", share=0.9
    )
    assert "does not hold the images" in refused_probe({"ops": images, "clean": wrong}, kind="first_layer")
