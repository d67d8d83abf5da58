"""Error-minimising noise: the same as a plain implementation, in its budget after rounding, honest about its end."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from poisons import DataSpec, Store
from poisons.em import Delta, Em
from tests.conftest import CPU
from trainers import Images, InputError
from trainers.loop import DivergenceError

SMALL: dict[str, Any] = {
    "generator": {"kind": "resnet18", "width": 4},
    "steps": 3,
    "train_steps": 4,
    "max_rounds": 3,
    "batch_size": 16,
}


def plain_em(
    images: Images, *, eps: float, steps: int, train_steps: int, rounds: int, batch: int
) -> torch.Tensor:
    """The published loop in its plainest form: float noise N,C,H,W after `rounds` rounds."""
    model = Em.parse(SMALL, "test").generator.network(num_classes=4, shape=(3, 32, 32), seed=5)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True)
    x, noise, at = images.x.float() / 255, torch.zeros(images.x.shape), 0
    for _ in range(rounds):
        model.train()
        for _ in range(train_steps):
            part, at = slice(at, at + batch), at + batch if at + batch < len(x) else 0
            sgd.zero_grad()
            F.cross_entropy(model(x[part] + noise[part]), images.y[part]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            sgd.step()
        model.eval()
        for start in range(0, len(x), batch):
            part = slice(start, start + batch)
            z = (x[part] + noise[part]).clamp(0, 1)
            for _ in range(steps):
                z = z.detach().requires_grad_()
                (grad,) = torch.autograd.grad(F.cross_entropy(model(z), images.y[part]), z)
                noise[part] = (z.detach() - eps / 10 * grad.sign() - x[part]).clamp(-eps, eps)
                z = (x[part] + noise[part]).clamp(0, 1)
    return noise


def test_the_noise_is_that_of_a_plain_implementation(images: Images) -> None:
    ours = Em.parse({**SMALL, "stop_error": 0, "eps": "32/255"}, "test").craft(images, seed=5, device=CPU)
    assert isinstance(ours, Delta)
    rounds = len(ours.facts()["rounds"])
    theirs = plain_em(images, eps=32 / 255, steps=3, train_steps=4, rounds=rounds, batch=16)
    assert torch.equal(ours.delta, (theirs * 255).round().to(torch.int16))


@pytest.mark.parametrize("eps", ["8/255", "17/510", "1/2"])
def test_the_budget_holds_after_rounding(images: Images, eps: str) -> None:
    delta = Em.parse({**SMALL, "eps": eps, "step": eps}, "test").craft(images, seed=0, device=CPU)
    assert isinstance(delta, Delta)
    assert int(delta.delta.abs().max()) <= Fraction(eps) * 255
    assert delta.delta.min() < 0 < delta.delta.max(), "the noise has both signs"
    moved = delta.apply(images).x.int() - images.x.int()
    inside = (images.x.int() + delta.delta >= 0) & (images.x.int() + delta.delta <= 255)
    assert torch.equal(moved[inside], delta.delta.int()[inside]), "applied whole wherever a pixel has room"


def test_the_record_tells_every_round_and_whether_the_end_was_reached(images: Images) -> None:
    seen: list[dict[str, Any]] = []
    given_up = Em.parse({**SMALL, "max_rounds": 2, "stop_error": 0, "eps": "1/255"}, "test").craft(
        images, seed=0, device=CPU, report=seen.append
    )
    assert given_up.facts()["reached_stop_error"] is False
    assert given_up.facts()["rounds"] == seen
    assert [row["round"] for row in seen] == [1, 2]
    reached = Em.parse({**SMALL, "stop_error": 0.99}, "test").craft(images, seed=0, device=CPU).facts()
    assert reached["reached_stop_error"] is True
    assert len(reached["rounds"]) == 1


def test_noise_goes_on_images_of_its_own_shape_only(images: Images) -> None:
    delta = Em.parse(SMALL, "test").craft(images, seed=0, device=CPU)
    with pytest.raises(ValueError, match="cannot go on images"):
        delta.apply(images.take(torch.arange(3)))


def test_a_generator_that_diverges_makes_no_data_set(images: Images) -> None:
    wild = Em.parse({**SMALL, "optimizer": {"kind": "sgd", "lr": 1e30}}, "test")
    with pytest.raises(
        DivergenceError, match=r"the generator diverged in round 1; try a smaller optimizer.lr"
    ):
        wild.craft(images, seed=0, device=CPU)


@pytest.mark.parametrize("eps", [0, 8, "1/300"])
def test_a_budget_of_no_level_or_of_more_than_all_is_refused(eps: object) -> None:
    with pytest.raises(InputError, match=r"eps lies between 1/255 .* write 8/255"):
        Em.parse({"eps": eps}, "test")


def test_a_budget_as_a_float_is_refused() -> None:
    with pytest.raises(InputError, match="write `8/255`"):
        Em.parse({"eps": 0.031}, "test")


def test_a_chain_is_crafted_from_clean_images_and_the_pixel_is_written_last(store: Store) -> None:
    em = {"kind": "em", **SMALL, "eps": "32/255"}
    both, ops, alone, clean = (
        DataSpec.parse({"poison": poison, "limit": 60}, "test").pinned()
        for poison in ([em, "ops"], "ops", em, "clean")
    )
    images = {spec.name: store.ensure(spec) for spec in (both, ops, alone, clean)}
    pixels = store.record(ops)["facts"]["ops"]["pixels"]  # type: ignore[index]
    assert store.record(both)["facts"]["ops"]["pixels"] == pixels  # type: ignore[index]
    expected = images[alone.name].x.clone()
    for pixel in pixels:
        mine = images[alone.name].y == pixel["class"]
        expected[mine, :, pixel["row"], pixel["column"]] = torch.tensor(pixel["colour"], dtype=torch.uint8)
    assert torch.equal(images[both.name].x, expected)
    assert both.parents == (clean, alone)
