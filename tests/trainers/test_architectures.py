"""Every architecture takes images in [0, 1] of any size and channels; sizes are the published ones."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from trainers import InputError, TrainSpec
from trainers.architectures.compact_transformer import Attention, EncoderLayer, sines, stochastic_depth
from trainers.architectures.preact_resnet import PreactBlock
from trainers.architectures.timm import Timm
from trainers.architectures.wide_resnet import WideBlock
from trainers.families import Architecture, Normalised

needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
MEMBERS = [
    pytest.param(member, id=kind, marks=needs_timm if kind == "timm" else ())
    for kind, member in Architecture.registry.items()
]


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
        ("wide_resnet", 100, 36_546_980),
        *(
            ({"kind": "wide_resnet", "form": "original", "depth": depth, "width": width}, 10, count)
            for depth, width, count in (
                *((28, 1, 369_498), (28, 2, 1_467_610), (28, 3, 3_294_042), (28, 4, 5_849_050)),
                *((28, 5, 9_132_634), (28, 6, 13_144_794), (28, 8, 23_354_842), (28, 10, 36_479_194)),
                *((28, 12, 52_517_850), (28, 14, 71_470_810), (28, 16, 93_338_074), (28, 20, 145_815_514)),
                *((34, 10, 46_160_474), (16, 8, 10_961_370)),
            )
        ),
        ("resnet34", 10, 21_282_122),
        ("resnet34", 100, 21_328_292),
        ("resnet50", 10, 23_520_842),
        ("resnet50", 100, 23_705_252),
        ({"kind": "resnet18", "stem": "imagenet"}, 1000, 11_689_512),
        ({"kind": "resnet34", "stem": "imagenet"}, 1000, 21_797_672),
        ({"kind": "resnet50", "stem": "imagenet"}, 1000, 25_557_032),
        ("preact_resnet18", 10, 11_172_170),
        ("preact_resnet18", 100, 11_218_340),
        ({"kind": "preact_resnet18", "final_norm": False}, 10, 11_171_146),
        ("densenet121", 10, 6_956_298),
        ("densenet121", 100, 7_048_548),
        ("vgg16_bn", 10, 15_253_578),
        ("vgg16_bn", 100, 15_299_748),
        ({"kind": "vgg16_bn", "hidden": 0}, 10, 14_728_266),
        ("mobilenet_v2", 10, 2_296_922),
        ("mobilenet_v2", 100, 2_412_212),
        ("cct_2_3x2", 10, 283_723),
        ("cct_4_3x2", 10, 482_123),
        ("cct_6_3x1", 10, 3_233_803),
        ("cct_7_3x1", 10, 3_760_139),
        ("cct_7_3x1", 100, 3_783_269),
        ("cct_7_3x2", 10, 3_853_259),
        ("cvt_7_4", 10, 3_716_619),
        ("cvt_7_4", 100, 3_739_749),
        ({"kind": "cct_7_3x1", "positions": "sine"}, 10, 3_694_603),
        ({"kind": "cvt_7_4", "positions": "sine"}, 10, 3_700_235),
    ],
)
def test_parameter_counts_are_the_published_ones(spec: Any, num_classes: int, published: int) -> None:
    assert size(spec, num_classes) == published


@pytest.mark.parametrize(
    ("width", "millions"), [(1, 0.37), (2, 1.47), (4, 5.85), (8, 23.36), (16, 93.35), (20, 145.84)]
)
def test_wide_resnets_have_the_sizes_of_table_3(width: int, millions: float) -> None:
    assert round(size({"kind": "wide_resnet", "depth": 28, "width": width}) / 1e6, 2) == millions


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 33, 47)])
def test_every_architecture_gives_logits_for_images_of_any_shape(
    member: type[Architecture], shape: tuple[int, int, int]
) -> None:
    net = member.parse(member.smoke, "test").network(num_classes=7, shape=shape, seed=0)
    assert net(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("member", MEMBERS)
def test_every_architecture_takes_channels_last_images_in_bfloat16(member: type[Architecture]) -> None:
    net = member.parse(member.smoke, "test").network(num_classes=7, shape=(3, 32, 32), seed=0)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("member", MEMBERS)
def test_weights_follow_the_seed_and_leave_global_state_unchanged(member: type[Architecture]) -> None:
    spec = member.parse(member.smoke, "test")
    state = torch.get_rng_state()
    one, again, other = (spec.network(num_classes=3, shape=(3, 32, 32), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("member", MEMBERS)
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


def test_lenet_names_the_minimum_image_size() -> None:
    with pytest.raises(InputError, match="at least 16x16 pixels, found 12x12"):
        Architecture.parse("lenet5", "test").build(num_classes=10, shape=(3, 12, 12))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "resnet50", "width": 0}, "width: Input should be greater than 0, found 0"),
        ({"kind": "preact_resnet18", "width": 0}, "width: Input should be greater than 0, found 0"),
        ({"kind": "densenet121", "growth": 0}, "growth: Input should be greater than 0, found 0"),
        ({"kind": "vgg16_bn", "hidden": -1}, "hidden: Input should be greater than or equal to 0, found -1"),
        ({"kind": "wide_resnet", "depth": 12}, "such as 10, 16, 28 or 40; found 12"),
        ({"kind": "cvt_7_4", "positions": "sin"}, "expected 'learnable' or 'sine', found 'sin'"),
        ("torchvision", "name: this field is missing"),
    ],
)
def test_a_bad_setting_is_named(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Architecture.parse(settings, "test")


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("densenet121", (3, 7, 32), "at least 8x8 pixels, found 7x32"),
        ("cvt_7_4", (1, 9, 3), "cvt_7_4 needs images of at least 4x4 pixels, found 9x3"),
    ],
)
def test_images_that_are_too_small_are_refused(kind: str, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Architecture.parse(kind, "test").build(num_classes=10, shape=shape)


@pytest.mark.parametrize("kind", ["resnet18", "resnet50"])
def test_a_resnet_with_the_imagenet_stem_computes_what_torchvision_does(kind: str) -> None:
    theirs = torchvision.models.get_model(kind).double()
    ours = Architecture.parse({"kind": kind, "stem": "imagenet"}, "test").build(
        num_classes=1000, shape=(3, 64, 64)
    )
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    ours.double().load_state_dict(state)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_vgg16_convolves_as_torchvision_does() -> None:
    vgg = torchvision.models.vgg
    theirs = vgg.make_layers(vgg.cfgs["D"], batch_norm=True)
    ours = Architecture.parse("vgg16_bn", "test").build(num_classes=10, shape=(3, 32, 32))[: len(theirs)]
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours(x), theirs(x))


def test_mobilenet_is_torchvisions_with_more_projections_and_one_more_expansion() -> None:
    with torch.device("meta"):
        plain = torchvision.models.mobilenet_v2(num_classes=10)
    projections = sum(a * b + 2 * b for a, b in ((32, 16), (16, 24), (64, 96), (160, 320)))
    expansion = 32 * 32 + 2 * 32
    assert size("mobilenet_v2") == sum(p.numel() for p in plain.parameters()) + projections + expansion


def test_only_the_forms_of_the_paper_have_kaiming_normal_weights() -> None:
    for spec, std in (
        ({"kind": "resnet18", "stem": "imagenet"}, (2 / (9 * 64)) ** 0.5),
        ("resnet18", (1 / (3 * 9 * 64)) ** 0.5),
    ):
        net = Architecture.parse(spec, "test").build(num_classes=10, shape=(3, 32, 32))
        block = next(module for module in net if hasattr(module, "conv1"))
        assert block.conv1.weight.std().item() == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize(
    ("spec", "first", "last"),
    [
        ({"kind": "resnet18", "width": 4}, 0.12711401, -0.05250338),
        ({"kind": "wide_resnet", "depth": 10, "width": 1}, 0.12711401, -0.06477840),
    ],
)
def test_the_weights_that_a_seed_draws_stay(spec: dict[str, Any], first: float, last: float) -> None:
    weights = list(
        Architecture.parse(spec, "test").network(num_classes=3, shape=(3, 32, 32), seed=5).parameters()
    )
    assert (weights[0].flatten()[0].item(), weights[-1][0].item()) == pytest.approx((first, last), rel=1e-5)


def test_a_wide_resnet_has_one_of_two_forms() -> None:
    settings = {"kind": "wide_resnet", "depth": 10, "width": 2}
    for form, stride, momentum, biases in (
        ("released", "conv2", 0.9, True),
        ("original", "conv1", 0.1, False),
    ):
        net = Architecture.parse({**settings, "form": form}, "test").build(num_classes=3, shape=(3, 32, 32))
        assert [getattr(block, stride).stride for block in net[1:4]] == [(1, 1), (2, 2), (2, 2)]
        assert next(m for m in net if isinstance(m, nn.BatchNorm2d)).momentum == momentum
        convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
        assert len(convs) == 10
        assert all((conv.bias is not None) == biases for conv in convs)


@pytest.mark.parametrize("stride", [1, 2])
def test_forms_of_residual_shortcuts_match_their_definitions(stride: int) -> None:
    x = torch.randn(2, 4, 6, 6)
    preact, wide = PreactBlock(4, 8, stride=stride), WideBlock(4, 8, stride=stride)
    same = PreactBlock(4, 4, stride=1)
    for block in (preact, wide, same):
        nn.init.zeros_(block.conv2.weight)
    assert torch.equal(preact(x), preact.projection(F.relu(preact.bn1(x))))
    assert torch.equal(same(x), x)
    torch.testing.assert_close(wide(x), wide.shortcut(x) + wide.conv2.bias[:, None, None])


def test_a_final_norm_is_the_last_layer_before_pooling() -> None:
    for final_norm in (True, False):
        spec = Architecture.parse({"kind": "preact_resnet18", "width": 4, "final_norm": final_norm}, "test")
        net = spec.build(num_classes=3, shape=(3, 32, 32))
        assert (isinstance(net[-4], nn.ReLU), isinstance(net[-5], nn.BatchNorm2d)) == (final_norm, final_norm)


def test_attention_is_multi_head_attention() -> None:
    ours, x = Attention(12, 3).eval(), torch.randn(2, 5, 12)
    theirs = nn.MultiheadAttention(12, 3, bias=False, batch_first=True).eval()
    theirs.load_state_dict({"in_proj_weight": ours.qkv.weight, "out_proj.weight": ours.out.weight})
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0] + ours.out.bias)


def test_an_encoder_layer_writes_its_second_norm_back_to_the_stream() -> None:
    layer, x = EncoderLayer(8, 2, 2, drop=0.1).eval(), torch.randn(2, 5, 8)
    nn.init.zeros_(layer.mlp[2].weight)
    nn.init.zeros_(layer.mlp[2].bias)
    torch.testing.assert_close(layer(x), layer.norm2(x + layer.attention(layer.norm1(x))))


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    out = stochastic_depth(torch.ones(20_000, 2, 3), 0.1)
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.9])
    assert out.mean().item() == pytest.approx(1, abs=0.01)


def test_a_compact_transformer_is_regularised_in_training_alone() -> None:
    net = Architecture.parse("cct_4_3x2", "test").build(num_classes=3, shape=(3, 32, 32))
    assert [block.drop for block in net[1:5]] == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])
    x = torch.rand(4, 3, 32, 32)
    assert not torch.equal(net(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


def test_sine_positions_are_sines_and_cosines() -> None:
    table = sines(3, 4)
    assert table[2].tolist() == pytest.approx([0.9092974, -0.4161468, 0.0199987, 0.9998000], abs=1e-6)
    net = Architecture.parse({"kind": "cvt_7_4", "positions": "sine"}, "test").build(
        num_classes=3, shape=(3, 32, 32)
    )
    assert torch.equal(net[0].positions, sines(64, 256))


def test_recipes_are_the_papers() -> None:
    adamw = {"kind": "adamw", "lr": 5e-4, "weight_decay": 3e-2}
    compact = {"optimizer": adamw, "schedule": {"kind": "cosine", "floor": 0.02}}
    assert Architecture.parse("cct_7_3x1", "test").recipe() == compact
    assert Architecture.parse("cvt_7_4", "test").recipe() == compact
    assert Architecture.parse("wide_resnet", "test").recipe() == {"batch_size": 64}
    assert Architecture.parse({"kind": "wide_resnet", "width": 4}, "test").recipe() == {}
    assert Architecture.parse("resnet18", "test").recipe() == {}


@pytest.mark.parametrize("member", MEMBERS)
def test_every_recipe_is_a_part_of_a_train_spec(member: type[Architecture]) -> None:
    architecture = member.parse(member.smoke, "test")
    TrainSpec.parse({"architecture": architecture, **architecture.recipe()}, "test")


def test_lenet_alone_is_too_small_to_memorise() -> None:
    assert [kind for kind, member in Architecture.registry.items() if not member.memorises] == ["lenet5"]


@needs_timm
def test_an_unknown_timm_network_names_near_ones_and_not_all() -> None:
    with pytest.raises(
        InputError, match="unknown timm network 'resnet81'; did you mean 'resnet18'"
    ) as caught:
        Architecture.parse({"kind": "timm", "name": "resnet81"}, "test")
    assert len(str(caught.value)) < 250


def test_an_unknown_torchvision_network_names_near_ones() -> None:
    with pytest.raises(InputError, match=r"did you mean 'resnet18'\? .* and \d+ more$"):
        Architecture.parse({"kind": "torchvision", "name": "resnet_18"}, "test")
    with pytest.raises(InputError, match="unknown torchvision network 'fcn_resnet50'"):
        Architecture.parse({"kind": "torchvision", "name": "fcn_resnet50"}, "test")


@pytest.mark.parametrize("option", ["num_classes", "weights"])
def test_options_cannot_override_the_data_or_load_weights(option: str) -> None:
    with pytest.raises(InputError, match=f"options: leave out '{option}'"):
        Architecture.parse({"kind": "torchvision", "name": "resnet18", "options": {option: 1}}, "test")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "alexnet",
            {},
            "torchvision's 'alexnet' cannot be trained on 32x32 images of 3 channels: Given input",
        ),
        ("googlenet", {}, r"returned GoogLeNetOutputs, not one tensor .* such as \{aux_logits: false\}"),
        ("resnet18", {"depth": 3}, "unexpected keyword argument 'depth'"),
    ],
)
def test_a_library_network_that_does_not_fit_is_refused_before_training(
    name: str, options: dict[str, Any], message: str
) -> None:
    spec = Architecture.parse({"kind": "torchvision", "name": name, "options": options}, "test")
    with pytest.raises(InputError, match=message):
        spec.build(num_classes=10, shape=(3, 32, 32))


def test_options_reach_the_library() -> None:
    settings = {"kind": "torchvision", "name": "googlenet", "options": {"aux_logits": False}}
    net = Architecture.parse(settings, "test").build(num_classes=10, shape=(3, 32, 32))
    assert net.fc.out_features == 10


@needs_timm
def test_a_timm_network_for_one_size_is_given_the_size_of_the_images() -> None:
    vit = {"kind": "timm", "name": "vit_tiny_patch16_224"}
    net = Architecture.parse(vit, "test").build(num_classes=10, shape=(1, 32, 48))
    assert net.patch_embed.img_size == (32, 48)
    with pytest.raises(
        InputError, match=r"doesn't match model .* perhaps `options` help, such as {img_size: 32"
    ):
        Architecture.parse({**vit, "options": {"img_size": 160}}, "test").build(
            num_classes=10, shape=(3, 32, 32)
        )


def test_trying_a_network_out_changes_no_state() -> None:
    spec = Architecture.parse({"kind": "torchvision", "name": "shufflenet_v2_x0_5"}, "test")
    torch.manual_seed(3)
    ours = spec.build(num_classes=10, shape=(3, 32, 32))
    drawn = torch.rand(1)
    torch.manual_seed(3)
    theirs = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    assert torch.equal(drawn, torch.rand(1))
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_torchvision_sees_a_grey_image_in_all_three_channels() -> None:
    spec = Architecture.parse({"kind": "torchvision", "name": "squeezenet1_1"}, "test")
    net = spec.build(num_classes=10, shape=(1, 32, 32)).eval()
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(net(x), net[1](x.repeat(1, 3, 1, 1)))


def test_without_the_library_a_sweep_can_be_planned_but_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Timm, "package", "absent_library")
    spec = Architecture.parse({"kind": "timm", "name": "resnet18"}, "test")
    with pytest.raises(InputError, match="architecture timm needs the absent_library package: pip install"):
        spec.build(num_classes=10, shape=(3, 32, 32))
