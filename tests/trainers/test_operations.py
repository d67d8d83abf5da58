"""The batched operations are torchvision's, each image with its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as T

from trainers import operations
from trainers.operations import GEOMETRY, NAMES, apply, grey, inside, to_levels, to_pixels

N = 8
SHAPES = [(3, 32, 32), (3, 12, 10), (1, 28, 28), (3, 7, 9)]
FACTORS = (0.0, 0.1, 0.73, 1.0, 1.27, 1.99)
SLOPES = (0.09, 0.3, -0.3, 0.99, -0.05)
SHIFTS = (0, 4, -14, 32)
STRENGTHS: dict[str, tuple[float, ...]] = {
    "identity": (0,),
    "shear_x": SLOPES,
    "shear_y": SLOPES,
    "translate_x": SHIFTS,
    "translate_y": SHIFTS,
    "rotate": (0, 9, -30, 90, 135, 180, -67.5),
    "brightness": FACTORS,
    "contrast": FACTORS,
    "color": FACTORS,
    "sharpness": FACTORS,
    "posterize": (0, 1, 4, 6, 8),
    "solarize": (0, 26, 76.5, 178.5, 255),
    "auto_contrast": (0,),
    "equalize": (0,),
    "invert": (0,),
}
# float rounding decides whether a tie falls this or that way; it depends on the processor
TIES = {*GEOMETRY, "contrast", "color", "sharpness"}


def witness(image: Tensor, name: str, strength: float, fill: tuple[float, ...] = (0.0,)) -> Tensor:
    """One uint8 image C,H,W through torchvision."""

    def affine(shift: tuple[int, int], slope: tuple[float, float], center: list[float] | None) -> Tensor:
        shear = [math.degrees(math.atan(s)) for s in slope]
        return T.affine(
            image, angle=0.0, translate=list(shift), scale=1.0, shear=shear, fill=list(fill), center=center
        )

    cases: dict[str, Callable[[], Tensor]] = {
        "identity": lambda: image,
        "shear_x": lambda: affine((0, 0), (strength, 0), [0, 0]),
        "shear_y": lambda: affine((0, 0), (0, strength), [0, 0]),
        "translate_x": lambda: affine((int(strength), 0), (0, 0), None),
        "translate_y": lambda: affine((0, int(strength)), (0, 0), None),
        "rotate": lambda: T.rotate(image, strength, fill=list(fill)),
        "brightness": lambda: T.adjust_brightness(image, strength),
        "contrast": lambda: T.adjust_contrast(image, strength),
        "color": lambda: T.adjust_saturation(image, strength),
        "sharpness": lambda: T.adjust_sharpness(image, strength),
        "posterize": lambda: T.posterize(image, int(strength)),
        "solarize": lambda: T.solarize(image, strength),
        "auto_contrast": lambda: T.autocontrast(image),
        "equalize": lambda: T.equalize(image),
        "invert": lambda: T.invert(image),
    }
    return cases[name]()


def noise(shape: tuple[int, int, int]) -> Tensor:
    return torch.randint(0, 256, (N, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def smooth(shape: tuple[int, int, int]) -> Tensor:
    """Blobs, as in photographs; the first image is of one colour, the second grey, the third dark."""
    c, h, w = shape
    coarse = torch.rand(N, c, 4, 4, generator=torch.Generator().manual_seed(1)) * 255
    images = F.interpolate(coarse, (h, w), mode="bicubic").clamp(0, 255).to(torch.uint8)
    images[0], images[1], images[2] = 77, images[1, :1], images[2] // 4
    return images


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("make", [noise, smooth])
def test_every_operation_matches_torchvision(
    name: str, shape: tuple[int, int, int], make: Callable[[tuple[int, int, int]], Tensor]
) -> None:
    images = make(shape)
    op = torch.full((N,), NAMES.index(name))
    fills = [(0.0,), (125.0, 123.0, 114.0)[: shape[0]]] if name in GEOMETRY else [(0.0,)]
    assert STRENGTHS[name]
    for strength in STRENGTHS[name]:
        for fill in fills:
            ours = apply(
                images.float(), op, torch.full((N,), strength, dtype=torch.float64), ops=NAMES, fill=fill
            )
            theirs = torch.stack([witness(image, name, strength, fill) for image in images])
            assert (ours == ours.floor()).all()
            wrong = (ours != theirs).float().mean()
            assert wrong <= (0.005 if name in TIES else 0), (strength, fill)


@pytest.mark.parametrize("free", [True, False], ids=["as on a CPU", "as on a GPU"])
@pytest.mark.parametrize("fill", [(0.0,), (125.0, 123.0, 114.0)])
def test_images_of_one_batch_have_their_own_operation_and_strength(
    fill: tuple[float, ...], free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "counting_is_free", lambda device: free)
    cases = [(name, s) for name in NAMES for s in STRENGTHS[name]]
    images = noise((3, 32, 32))[torch.arange(len(cases)) % N]
    before = images.float()
    op = torch.tensor([NAMES.index(name) for name, _ in cases])
    ours = apply(before, op, torch.tensor([s for _, s in cases], dtype=torch.float64), ops=NAMES, fill=fill)
    theirs = torch.stack([witness(i, name, s, fill) for i, (name, s) in zip(images, cases, strict=True)])
    assert torch.equal(before, images.float())
    wrong = (ours != theirs).flatten(1).float().mean(1)
    assert wrong.max() <= 0.005
    assert len(wrong) > 50


def test_an_unknown_operation_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="unknown operation 'blur'; known: identity, shear_x"):
        apply(
            torch.zeros(1, 3, 4, 4),
            torch.zeros(1, dtype=torch.int64),
            torch.zeros(1),
            ops=("identity", "blur"),
        )


def test_an_image_too_small_to_smooth_is_unchanged() -> None:
    levels = torch.tensor([[[[3.0, 250.0]]]])
    out = apply(levels, torch.tensor([0]), torch.tensor([1.9]).double(), ops=("sharpness",))
    assert torch.equal(out, levels)


def test_levels_survive_the_conversion_to_pixels() -> None:
    levels = torch.arange(256.0)
    assert torch.equal(to_levels(levels / 255), levels)
    assert torch.equal(to_pixels(levels), levels / 255)


def test_grey_needs_one_or_three_channels() -> None:
    with pytest.raises(ValueError, match="1 or 3 channels, found 4"):
        grey(torch.zeros(1, 4, 2, 2))


def test_a_box_holds_the_pixels_between_its_sides() -> None:
    box = inside(*torch.tensor([[-1], [2], [1], [9]]), height=3, width=4)
    assert box.int().tolist() == [[[[0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]]]
