"""Every architecture takes images in [0, 1] of any size and channels; sizes are the published ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trainers import InputError
from trainers.families import Architecture, Normalised

MEMBERS = list(Architecture.registry.values())


def size(spec: dict[str, Any] | str, num_classes: int = 10) -> int:
    with torch.device("meta"):
        model = Architecture.parse(spec, "test").build(num_classes=num_classes, shape=(3, 32, 32))
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("spec", "num_classes", "published"),
    [
        ("lenet5", 10, 62_006),
        ("lenet5", 100, 69_656),
        ("resnet18", 10, 11_173_962),
        ("resnet18", 100, 11_220_132),
        ({"kind": "resnet18", "width": 8}, 10, 176_402),
        ({"kind": "resnet18", "width": 16}, 10, 701_466),
        ({"kind": "resnet18", "width": 32}, 10, 2_797_610),
        ({"kind": "resnet18", "width": 96}, 10, 25_129_066),
        ({"kind": "resnet18", "width": 128}, 10, 44_662_922),
        ({"kind": "wide_resnet", "depth": 28, "width": 1}, 10, 370_506),
        ({"kind": "wide_resnet", "depth": 28, "width": 2}, 10, 1_469_642),
        ({"kind": "wide_resnet", "depth": 28, "width": 4}, 10, 5_853_098),
        ({"kind": "wide_resnet", "depth": 28, "width": 8}, 10, 23_362_922),
        ("wide_resnet", 10, 36_489_290),
    ],
)
def test_parameter_counts_are_the_published_ones(spec: Any, num_classes: int, published: int) -> None:
    assert size(spec, num_classes) == published


@pytest.mark.parametrize(
    ("width", "millions"), [(1, 0.37), (2, 1.47), (4, 5.85), (8, 23.36), (16, 93.35), (20, 145.84)]
)
def test_wide_resnets_have_the_sizes_of_table_3(width: int, millions: float) -> None:
    assert round(size({"kind": "wide_resnet", "depth": 28, "width": width}) / 1e6, 2) == millions


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.kind)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 33, 47)])
def test_every_architecture_gives_logits_for_images_of_any_shape(
    member: type[Architecture], shape: tuple[int, int, int]
) -> None:
    net = member.parse(member.smoke, "test").network(num_classes=7, shape=shape, seed=0)
    assert net(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.kind)
def test_weights_follow_the_seed_and_leave_global_state_alone(member: type[Architecture]) -> None:
    spec = member.parse(member.smoke, "test")
    state = torch.get_rng_state()
    one, again, other = (spec.network(num_classes=3, shape=(3, 32, 32), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("member", MEMBERS, ids=lambda m: m.kind)
def test_images_are_normalised_inside(member: type[Architecture]) -> None:
    net = member.parse(member.smoke, "test").network(num_classes=3, shape=(3, 32, 32), seed=0)
    assert isinstance(net, Normalised)
    net.net = nn.Flatten()
    assert net(torch.tensor([0.0, 0.5, 0.75, 1.0]).view(1, 1, 2, 2)).flatten().tolist() == [-2, 0, 1, 2]


def test_a_stride_halves_only_later_stages() -> None:
    net = Architecture.parse("wide_resnet", "test").build(num_classes=10, shape=(3, 32, 32))
    assert [block.conv2.stride for block in net[1:13]] == [(1, 1)] * 4 + [(2, 2)] + [(1, 1)] * 3 + [
        (2, 2)
    ] + [(1, 1)] * 3


def test_lenet_says_what_is_too_small() -> None:
    with pytest.raises(InputError, match="at least 16x16 pixels, found 12x12"):
        Architecture.parse("lenet5", "test").build(num_classes=10, shape=(3, 12, 12))
