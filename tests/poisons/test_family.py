"""Every poison keeps labels, order, shape and dtype, writes into no input, repeats bit for bit, and stays in its budget."""

from __future__ import annotations

import math

import pytest
import torch

from poisons import Poison
from tests.conftest import CPU
from trainers import Images

MEMBERS = list(Poison.registry.values())


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.kind)
def test_every_poison_keeps_its_promises(member: type[Poison], images: Images) -> None:
    poison, before = member.parse(member.smoke, "test"), images.x.clone()
    once, again = (poison.craft(images, seed=1, device=CPU) for _ in range(2))
    poisoned = once.apply(images)
    assert poisoned.x.dtype == torch.uint8
    assert poisoned.x.shape == images.x.shape
    assert torch.equal(poisoned.y, images.y)
    assert poisoned.num_classes == images.num_classes
    assert torch.equal(poisoned.x, again.apply(images).x), "equal seeds give equal bytes"
    assert once.facts() is not None
    assert torch.equal(images.x, before), "the input is left as it was"
    if (eps := getattr(poison, "eps", None)) is not None:
        moved = (poisoned.x.int() - images.x.int()).abs().max()
        assert moved <= math.floor(eps * 255)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.kind)
def test_every_poison_reports_json(member: type[Poison], images: Images) -> None:
    import json

    json.dumps(member.parse(member.smoke, "test").craft(images, seed=0, device=CPU).facts(), allow_nan=False)
