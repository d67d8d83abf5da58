"""Every poison keeps labels, order, shape and dtype, writes into no input, repeats bit for bit, and stays in its budget."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from poisons import CraftContext, Poison, arrow
from poisons.base import Perturbation
from poisons.exchange.importing import write_import
from poisons.methods.imported import Imported
from poisons.methods.ops import uniform_noise
from poisons.perturbations.chain import Chain
from poisons.store.store import restored
from poisons.workers import Item, Result, Serial, Shared, Work, Workers
from tests.poisons.test_fixed_network import SURROGATE
from trainers import Images
from trainers.flops import counted

MEMBERS = list(Poison.registry.values())


@pytest.fixture
def context(images: Images, tmp_path: Path) -> CraftContext:
    """On a CPU, with a perturbation of `images` made elsewhere, for `imported`."""
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
    moved, eps = poisoned.x.int() - images.x.int(), getattr(poison, "eps", None)
    unsaid = poison.bound == Poison.bound and eps is not None
    lengths = moved.double().square().sum((1, 2, 3)).sqrt() / 255
    level = math.sqrt(moved[0].numel()) / 255
    if poison.bound == "Linf eps" or unsaid:
        assert moved.abs().max() <= math.floor(eps * 255)
    elif (
        poison.bound == "L2 eps of each image, before rounding"
    ):  # and half a level of rounding in each value
        assert lengths.max() <= eps + level / 2
    elif poison.bound == "L2 norm of each image, before rounding":  # truncation takes up to a level off
        assert lengths.max() <= 6 * level + level
    elif poison.bound == "Linf eps, and a shift of the colours":
        shifts = torch.tensor(once.facts()["shifts"])[images.y]
        assert (moved - shifts[:, :, None, None]).abs()[
            (poisoned.x > 0) & (poisoned.x < 255)
        ].max() <= math.floor(eps * 255)
    elif "pixel" in poison.bound:
        assert moved.any(1).flatten(1).sum(1).max() <= getattr(poison, "pixels", 1)
    else:
        assert poison.bound in ("none", "nothing changes", "as imported")


class Counting(Workers):
    """Two workers in this process, which count what they are asked for."""

    size = 2

    def __init__(self) -> None:
        self.calls = 0

    def map(
        self, work: Work[Shared, Item, Result], shared: Shared, items: Sequence[Item], *, device: torch.device
    ) -> list[Result]:
        self.calls += 1
        return Serial().map(work, shared, items, device=device)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.kind)
def test_a_poison_says_whether_workers_share_its_crafting(
    member: type[Poison], images: Images, context: CraftContext
) -> None:
    poison, workers = member.parse(member.smoke, "test"), Counting()
    shared = poison.craft(images, seed=1, context=replace(context, workers=workers)).apply(images).x
    assert (workers.calls > 0) == poison.splits
    assert torch.equal(shared, poison.craft(images, seed=1, context=context).apply(images).x)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.kind)
def test_a_poison_takes_one_image_of_each_class(
    member: type[Poison], images: Images, context: CraftContext
) -> None:
    if member is Imported:
        return  # its rows are those of other images
    first = torch.tensor([int((images.y == k).nonzero()[0]) for k in range(images.num_classes)])
    few = images.take(first)
    few.x[:] = (60 * few.y + 30)[:, None, None, None] + few.x % 16  # so plain that a surrogate learns them
    learns = {"surrogate": {**SURROGATE, "epochs": 40}} if "surrogate" in member.model_fields else {}
    poison = member.parse({**member.smoke, **learns}, "test")
    changed = poison.craft(few, seed=1, context=context).apply(few)
    assert changed.x.shape == few.x.shape


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.kind)
def test_a_stored_perturbation_changes_any_rows_in_any_order(
    member: type[Poison], images: Images, context: CraftContext, tmp_path: Path
) -> None:
    """The data sets that share it apply it in chunks, to some of the images, and after other perturbations."""
    crafted = member.parse(member.smoke, "test").craft(images, seed=1, context=context)
    kept, whole = _stored(crafted, tmp_path), crafted.apply(images).x
    assert torch.equal(kept.apply(images).x, whole)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(2))
    for rows in (*order.split(7), order, torch.arange(len(images)).flip(0), order[:0]):
        part = images.take(rows)
        before = part.x.clone()
        changed = kept.apply(part, rows)
        assert torch.equal(changed.x, whole[rows])
        assert torch.equal(changed.y, images.y[rows])
        assert torch.equal(part.x, before), "the input is left as it was"
        ops = Poison.parse("ops", "test").craft(images, seed=0)
        chain, back = Chain((kept, ops)), Chain((ops, kept))
        assert torch.equal(chain.apply(part, rows).x, ops.apply(changed, rows).x)
        assert torch.equal(back.apply(part, rows).x, back.apply(images).x[rows])


def _stored(perturbation: Perturbation, folder: Path) -> Perturbation:
    """What is restored from its files, one for each link of a chain."""
    links = perturbation.flat()
    for i, link in enumerate(links):
        arrow.write(folder / f"{i}.arrow", link.columns(), {"kind": link.kind, **link.to_json()})
    found = tuple(restored(folder / f"{i}.arrow") for i in range(len(links)))
    return found[0] if len(found) == 1 else Chain(found)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("tue", {"batch_size": 64, "epochs": 6}), ("pil", {"linear_batch_size": 64, "linear_epochs": 6})],
)
def test_the_work_of_a_poison_without_networks_is_what_it_computes(
    kind: str, settings: dict[str, int]
) -> None:
    gen, shape = torch.Generator().manual_seed(0), (3, 16, 16)
    x = torch.randint(0, 256, (256, *shape), generator=gen, dtype=torch.uint8)
    images, poison = Images(x, torch.arange(256) % 10, 10), Poison.parse({"kind": kind, **settings}, "test")
    found, _ = counted(lambda: poison.craft(images, seed=0))
    work = poison.work(256, shape=shape, num_classes=10)
    assert found.flops == pytest.approx(work.flops, rel=0.02)
    assert (found.values, found.kernels) == pytest.approx((work.values, work.kernels), rel=0.2)
