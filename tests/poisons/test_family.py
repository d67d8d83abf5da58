"""Every poison keeps labels, order, shape and dtype, writes into no input, repeats bit for bit, and stays in its budget."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from poisons import CraftContext, Poison
from poisons.exchange.importing import write_import
from poisons.methods.imported import Imported
from poisons.methods.ops import uniform_noise
from trainers import Images

MEMBERS = list(Poison.registry.values())


@pytest.fixture
def context(images: Images, tmp_path: Path) -> CraftContext:
    """On a CPU, with a perturbation of `images` that somebody else made, for `imported`."""
    noise = uniform_noise(
        images, Fraction(8, 255), without=torch.zeros(len(images), dtype=torch.bool), seed=0
    )
    write_import(tmp_path / Imported.smoke["fingerprint"], noise, {})
    return CraftContext(imports=tmp_path)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.kind)
def test_every_poison_keeps_its_contract(member: type[Poison], images: Images, context: CraftContext) -> None:
    poison, before = member.parse(member.smoke, "test"), images.x.clone()
    once, again = (poison.craft(images, seed=1, context=context) for _ in range(2))
    poisoned = once.apply(images)
    assert poisoned.x.dtype == torch.uint8
    assert poisoned.x.shape == images.x.shape
    assert torch.equal(poisoned.y, images.y)
    assert poisoned.num_classes == images.num_classes
    assert torch.equal(poisoned.x, again.apply(images).x), "equal seeds give equal bytes"
    assert torch.equal(images.x, before), "the input is left as it was"
    json.dumps(once.facts(), allow_nan=False)
    if (eps := getattr(poison, "eps", None)) is not None:
        moved = (poisoned.x.int() - images.x.int()).abs().max()
        assert moved <= math.floor(eps * 255)
