"""A delta adds whole levels and nothing else, and float noise is rounded to levels as requested."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from poisons.base import Perturbation
from poisons.perturbations import delta as module
from poisons.perturbations.delta import Application, Delta, whole_levels
from trainers import Images, InputError

APPLICATIONS: tuple[Application, ...] = ("signed", "released_em", "released_ops")
EPS = Fraction(8, 255)


def synthetic() -> torch.Tensor:
    """Noise such as descents of 0.8/255 leave, every whole level, and any within 8/255; float32 M,1,1,1."""
    gen = torch.Generator().manual_seed(0)
    steps, any_ = (
        (torch.arange(-10, 11).double() * 0.8 / 255).float(),
        (torch.rand(400, generator=gen) * 2 - 1) * (8 / 255),
    )
    off = (any_ * 255 - (any_ * 255).round()).abs() > 1e-4  # nearer, the releases depend on the pixel
    whole = (torch.arange(-255, 256).double() / 255).float()
    return torch.cat((steps, whole, any_[off]))[:, None, None, None]


def every_pixel(delta: torch.Tensor) -> torch.Tensor:
    """All 256 pixel values with each of M levels on them, int64 M,256."""
    x = torch.arange(256, dtype=torch.uint8).repeat(len(delta), 1)[:, None, None]
    wide = delta.expand(-1, 1, 1, 256)
    out = Delta(wide).apply(Images(x, torch.zeros(len(x), dtype=torch.int64), 1))
    return out.x[:, 0, 0].long()


def test_released_ops_matches_the_released_code_for_every_pixel_value() -> None:
    noise = synthetic()
    pixels = np.arange(256)[None] / 255 + noise[:, 0, 0].numpy()  # float64, float32
    theirs = (np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    assert np.array_equal(every_pixel(whole_levels(noise, "released_ops", EPS)), theirs)


def test_released_em_matches_the_released_code_for_every_pixel_value() -> None:
    noise = synthetic()
    theirs = np.arange(256, dtype=np.float32)[None] + noise.mul(255).clamp_(0, 255)[:, 0, 0].numpy()
    theirs = np.clip(theirs, 0, 255).astype(np.uint8)
    assert np.array_equal(every_pixel(whole_levels(noise, "released_em", EPS)), theirs)


def test_signed_rounds_every_pixel_value_to_the_nearest() -> None:
    noise = synthetic()
    theirs = (np.arange(256)[None] + noise[:, 0, 0].double().numpy() * 255).clip(0, 255).round()
    assert np.array_equal(every_pixel(whole_levels(noise, "signed")), theirs)


def test_released_em_drops_negative_noise_and_released_ops_lowers_it_by_a_level() -> None:
    noise = torch.tensor([-8.0, -0.4, 0.0, 0.4, 2.7])[:, None, None, None] / 255
    levels = {a: whole_levels(noise, a, EPS).flatten().tolist() for a in APPLICATIONS}
    assert levels == {
        "signed": [-8, 0, 0, 0, 3],
        "released_em": [0, 0, 0, 0, 2],
        "released_ops": [-9, -1, 0, 0, 2],  # -8/255 in float32 lies just beyond -8/255
    }


@pytest.mark.parametrize(
    "eps", [Fraction(1, 255), Fraction(8, 255), Fraction(17, 510), Fraction(1, 2), Fraction(1)]
)
@pytest.mark.parametrize("application", APPLICATIONS)
def test_levels_stay_in_the_budget(application: Application, eps: Fraction) -> None:
    gen = torch.Generator().manual_seed(0)
    noise = ((torch.rand((50, 3, 8, 8), generator=gen) * 2 - 1) * 1.2).clamp(-1, 1) * float(eps)
    levels, limit = whole_levels(noise, application, eps), int(eps * 255)
    low, high = int(levels.min()), int(levels.max())
    assert high <= limit
    assert low >= {"signed": -limit, "released_em": 0, "released_ops": -limit - 1}[application]
    assert high == limit, "the budget is used"


def test_levels_take_a_byte_where_all_fit_and_two_where_one_does_not() -> None:
    noise = torch.zeros(3, 1, 2, 2)
    assert whole_levels(noise, "signed").dtype == torch.int8
    noise[1, 0, 1, 1] = -128 / 255
    assert whole_levels(noise, "signed").dtype == torch.int8
    noise[2, 0, 0, 0] = 127 / 255
    assert whole_levels(noise, "signed").dtype == torch.int8
    for level in (-129, 128):
        noise[2, 0, 0, 0] = level / 255
        levels = whole_levels(noise, "signed")
        assert levels.dtype == torch.int16
        assert levels.flatten().unique().tolist() == sorted((-128, 0, level))
    assert whole_levels(torch.zeros(0, 3, 2, 2), "signed").shape == (0, 3, 2, 2)


@pytest.mark.parametrize("application", APPLICATIONS)
def test_levels_do_not_depend_on_how_many_are_made_at_a_time(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = torch.randn((7, 1, 2, 2), generator=torch.Generator().manual_seed(0)) / 10
    whole = whole_levels(noise, application, EPS)
    monkeypatch.setattr(module, "CHUNK", 8)
    assert torch.equal(whole_levels(noise, application, EPS), whole)


def test_nan_noise_is_refused() -> None:
    for bad in (float("nan"), float("inf")):
        with pytest.raises(InputError, match="noise must be finite"):
            whole_levels(torch.tensor([0.0, bad])[:, None, None, None], "released_em")


def test_it_is_added_and_clipped_without_changing_its_input(images: Images) -> None:
    gen, before = torch.Generator().manual_seed(1), images.x.clone()
    delta = torch.randint(-300, 300, images.x.shape, generator=gen, dtype=torch.int16)
    out = Delta(delta).apply(images)
    assert torch.equal(out.x, (images.x.int() + delta.int()).clamp(0, 255).to(torch.uint8))
    assert torch.equal(out.y, images.y)
    assert torch.equal(images.x, before)


def test_some_images_get_the_noise_of_their_rows(images: Images) -> None:
    delta = Delta(torch.randint(-8, 9, images.x.shape, dtype=torch.int8))
    rows = torch.tensor([7, 3, 31])
    assert torch.equal(delta.apply(images.take(rows), rows).x, delta.apply(images).x[rows])
    assert len(delta.apply(images.take(rows[:0]), rows[:0])) == 0


def test_noise_of_a_class_can_be_applied_to_any_images_of_that_class(images: Images) -> None:
    levels = torch.tensor([-3, 0, 5, 100], dtype=torch.int8)[:, None, None, None].expand(4, 3, 32, 32)
    delta, some = Delta(levels, per="class"), images.take(torch.tensor([1, 2, 6, 3]))
    expected = some.x.int() + torch.tensor([0, 5, 5, 100])[:, None, None, None]
    assert torch.equal(delta.apply(some).x, expected.clamp(0, 255).to(torch.uint8))
    assert torch.equal(delta.apply(some, torch.arange(4)).x, delta.apply(some).x), (
        "rows make no difference here"
    )


def test_noise_is_refused_for_images_it_does_not_fit(images: Images) -> None:
    delta = Delta(torch.zeros(images.x.shape, dtype=torch.int8))
    small = Images(images.x[..., :8], images.y, 4)
    few = images.take(torch.arange(3))
    wrong = [(small, None), (few, None), (few, torch.arange(2)), (few, torch.tensor([0, 1, 40]))]
    for some, rows in [*wrong, (few, torch.tensor([-1, 0, 1]))]:
        with pytest.raises(InputError, match="cannot be applied to images"):
            delta.apply(some, rows)
    per_class = Delta(torch.zeros((3, 3, 32, 32), dtype=torch.int8), per="class")
    with pytest.raises(InputError, match=r"one per class.* of 4 classes"):
        per_class.apply(images)


@pytest.mark.parametrize("per", ["image", "class"])
def test_a_stored_perturbation_is_restored(images: Images, per: module.Per) -> None:
    levels = torch.randint(-8, 9, (40, 3, 32, 32), dtype=torch.int8)
    delta = Delta(levels, per, {"rounds": [{"round": 1, "error": 0.5}]})
    values = json.loads(json.dumps(delta.to_json(), allow_nan=False))
    columns = {name: column.clone() for name, column in delta.columns().items()}
    back = Perturbation.kinds["delta"].restore(columns, values)
    assert isinstance(back, Delta)
    assert (back.per, back.facts()) == (per, {}), "facts are the record's"
    assert torch.equal(back.apply(images).x, delta.apply(images).x)
