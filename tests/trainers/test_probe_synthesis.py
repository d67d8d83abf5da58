"""What networks draw: against closed forms on a linear network, within budgets, and with robust networks."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.conftest import CPU
from tests.trainers.subjects import random_images, subject
from trainers import Images, InputError, TrainSpec, fit
from trainers.images import Extent, to_float
from trainers.pgd import Frozen
from trainers.pictured import psnr
from trainers.probes.synthesis import JUDGE, Synthesis, draw, sees
from trainers.recipe import one_thread

RECIPE: dict[str, Any] = {
    "architecture": {"kind": "resnet18", "width": 4},
    "augmentations": [],
    "epochs": 3,
    "batch_size": 16,
    "precision": "float32",
}


def linear(classes: int = 4, values: int = 3 * 8 * 8) -> nn.Module:
    gen = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(values, classes))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn((classes, values), generator=gen))
        net[1].bias.zero_()
    return net


def test_one_step_of_a_linear_network_is_its_closed_form() -> None:
    """The gradient of the cross-entropy of logits Wx is Wᵀ(softmax - target)."""
    net, images = linear(), random_images(5)
    x, labels = 0.3 + 0.4 * to_float(images.x), images.y
    with Frozen(net):
        found = draw(net, x, labels, Fraction(1, 10), 1)
    weight = net[1].weight
    error = (x.flatten(1) @ weight.mT).softmax(1) - F.one_hot(labels, 4)
    grad = error @ weight
    wanted = x.flatten(1) - 0.1 * grad / grad.norm(dim=1, keepdim=True)  # a step of 0.2, projected
    assert torch.allclose(found.flatten(1), wanted, atol=1e-6)


def test_drawings_stay_in_budget_and_mask_and_lower_the_loss() -> None:
    net, images, probe = linear(), random_images(6), Synthesis(hole=0.5)
    x, labels = to_float(images.x), images.y
    mask = probe.mask(x)
    assert int(mask.sum()) == 16
    assert mask[0, 0, 2:6, 2:6].all()
    with Frozen(net):
        found = draw(net, x, labels, Fraction(1, 2), 8, mask)
    assert torch.equal(found * (1 - mask), x * (1 - mask)), "nothing outside the hole moves"
    assert (found - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-6
    assert 0 <= found.min() <= found.max() <= 1
    assert F.cross_entropy(net(found), labels) < F.cross_entropy(net(x), labels)
    assert sees(net, found, labels) >= sees(net, x, labels)


def test_psnr_is_that_of_the_hole_alone() -> None:
    truth = torch.full((2, 3, 4, 4), 0.5)
    mask = torch.zeros((1, 1, 4, 4))
    mask[:, :, 1:3, 1:3] = 1
    wrong = truth.clone()
    wrong[:, :, 1:3, 1:3] += 0.1
    wrong[:, :, 0, 0] = 1  # outside
    assert psnr(wrong, truth, mask) == pytest.approx(20.0, abs=1e-4)
    assert psnr(truth, truth, mask) == 100


def test_the_judge_is_a_training_on_clean_images_from_other_weights() -> None:
    spec, images = TrainSpec.parse(RECIPE, "test"), random_images(40)
    with one_thread(CPU):
        trained = fit(spec, images, images, seed=4, device=CPU)
        judge = fit(spec.model_copy(update={"epochs": 2}), images, images, seed=4 + JUDGE, device=CPU).model
    whole = subject(trained.model, images, images, {"clean": images})
    probe = Synthesis(limit=20, steps=3, judge_epochs=2)
    given = type(whole)(**{**vars(whole), "spec": spec, "seed": 4})
    with one_thread(CPU):
        found, again = probe.run(given), probe.run(given)
    assert found == again
    some = images.subset(20)
    assert found.metrics["judge_acc"] == sees(judge.eval(), to_float(some.x), some.y)
    assert set(found.metrics) == set(probe.metrics)
    assert len(found.fields["images"]) == 4 * probe.pictured
    first = found.fields["images"][0]
    assert first["label"] == f"{int(images.subset(20).y[0])}, with a hole"
    assert len(first["pixels"]) == len(first["response"]) == 8
    assert math.isfinite(found.metrics["inpainted_psnr"])


def test_a_hole_without_a_pixel_or_without_an_edge_is_refused() -> None:
    extent = Extent(4, (3, 8, 8), 4)
    for hole in (0.01, 0.99):
        with pytest.raises(InputError, match=f"a hole of {hole} leaves nothing to fill"):
            Synthesis(hole=hole).check_extents(TrainSpec(), extent, extent, {"clean": extent})
    spec = TrainSpec.parse({**RECIPE, "batch_size": 3}, "test")
    with pytest.raises(InputError, match=r"the judge of the probe 'synthesis': .*a last batch of 1 of 4"):
        Synthesis().check_extents(spec, extent, extent, {"clean": extent})


@pytest.mark.parametrize(
    "settings", [{"hole": 1.0}, {"steps": 0}, {"inpainting": 0.5}, {"drawing": 0}, {"translation": "-1"}]
)
def test_settings_that_make_no_sense(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Synthesis.parse(settings, "test")


def test_black_images_are_drawn_on_too() -> None:
    """Without a gradient nothing moves, and no number is lost."""
    net, images = linear(), Images(torch.zeros((4, 3, 8, 8), dtype=torch.uint8), torch.arange(4), 4)
    with torch.no_grad():
        net[1].weight.zero_()
    with Frozen(net):
        found = draw(net, to_float(images.x), images.y, Fraction(1), 3)
    assert found.isfinite().all()
    assert not found.any()
