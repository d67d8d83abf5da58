"""The numbers of a card match their definitions for any chunking, and a record is rendered as text."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from poisons import DataSpec, Store
from poisons.exchange import card
from poisons.exchange.card import Tally, markdown
from trainers import Images


def pairs(shape: tuple[int, ...], seed: int = 0) -> tuple[Images, Images]:
    """Random images, and the same with some of them changed: a lot, a little, in one channel, not at all."""
    gen = torch.Generator().manual_seed(seed)
    x = torch.randint(256, shape, generator=gen, dtype=torch.uint8)
    noise = torch.randint(-20, 21, shape, generator=gen)
    noise[::5] *= 6
    noise[1::5] = 0
    noise[2::5, 0] = 0
    noise[3::5, :, 1:] = 0
    y = torch.zeros(len(x), dtype=torch.int64)
    return Images(x, y, 1), Images((x + noise).clamp(0, 255).to(torch.uint8), y, 1)


def counted(before: Images, after: Images, size: int = 1000) -> dict[str, Any]:
    tally = Tally()
    for one, other in zip(before.chunks(size), after.chunks(size), strict=True):
        tally.add(one, other)
    found = tally.summary()
    assert found is not None
    return found


def witness_ssim(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """Of one channel, window by window, in float64."""
    side = min(11, *x.shape)
    side -= 1 - side % 2
    at = np.arange(side) - side // 2
    weight = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    c1, c2, found = (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for i in range(x.shape[0] - side + 1):
        for j in range(x.shape[1] - side + 1):
            p, q = x[i : i + side, j : j + side].astype(float), y[i : i + side, j : j + side].astype(float)
            mp, mq = (weight * p).sum(), (weight * q).sum()
            vp, vq = (weight * (p - mp) ** 2).sum(), (weight * (q - mq) ** 2).sum()
            both = (weight * (p - mp) * (q - mq)).sum()
            found.append((2 * mp * mq + c1) * (2 * both + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(found))


def witness(before: Images, after: Images) -> dict[str, Any]:
    """All the numbers, image by image, in float64."""
    rows = []
    for x, y in zip(before.x.numpy(), after.x.numpy(), strict=True):
        d = y.astype(float) - x.astype(float)
        if not d.any():
            rows.append((0.0, 0.0, 0.0, np.inf, 1.0))
            continue
        psnr = 10 * np.log10(255**2 / (d**2).mean())
        ssim = np.mean([witness_ssim(p, q) for p, q in zip(x, y, strict=True)])
        rows.append(((d != 0).any(0).sum(), np.sqrt(((d / 255) ** 2).sum()), abs(d).max(), psnr, ssim))
    table = np.array(rows, dtype=float)
    changed = table[np.isfinite(table[:, 3])]
    found: dict[str, Any] = {"images": len(table), "changed": len(changed) / len(table)}
    for name, column in zip(("L0", "L2", "Linf"), table.T, strict=False):
        found[name] = {"mean": column.mean(), "max": column.max()}
        found[name] |= {f"p{q}": np.quantile(column, q / 100) for q in (5, 50, 95)}
    for name, column in zip(("psnr", "ssim"), changed.T[3:], strict=True):
        found[name] = {"mean": column.mean(), "min": column.min(), "over": len(column)}
    return found


@pytest.mark.parametrize(
    "shape", [(20, 3, 16, 13), (11, 1, 12, 12), (10, 3, 4, 4), (10, 1, 1, 1), (5, 2, 3, 40)]
)
def test_every_number_is_that_of_its_definition(shape: tuple[int, ...]) -> None:
    before, after = pairs(shape)
    found, expected = counted(before, after), witness(before, after)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=2e-5), name
    json.dumps(found, allow_nan=False)


def test_chunk_sizes_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = pairs((2600, 1, 5, 4))
    whole = counted(before, after, 2600)
    assert whole["ssim"]["over"] == 780, "every second of the changed 1560"
    expected = {name: pytest.approx(value, abs=2e-6) for name, value in whole.items()}
    for size in (1, 7, 1000, 1999):
        assert counted(before, after, size) == expected
    monkeypatch.setattr(card, "VALUES", 1000)
    monkeypatch.setattr(card, "CACHED", 100)
    assert counted(before, after) == expected


def test_ssim_of_many_images_uses_an_evenly_spaced_sample() -> None:
    before, after = pairs((2600, 1, 5, 4))
    changed = (before.x != after.x).flatten(1).any(1).nonzero().squeeze(1)[::2]
    some = counted(before.take(changed), after.take(changed))
    assert counted(before, after)["ssim"] == some["ssim"]


def test_ssim_uses_fewer_images_if_they_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = pairs((2600, 1, 5, 4))
    monkeypatch.setattr(card, "MUCH", 300 * 20)
    assert counted(before, after)["ssim"]["over"] == 195, "every eighth of the changed 1560"


def test_unchanged_images_have_no_ratio_and_no_image_no_summary() -> None:
    before, _ = pairs((6, 3, 8, 8))
    found = counted(before, before)
    nothing = dict.fromkeys(("mean", "p5", "p50", "p95", "max"), 0)
    expected = {
        "images": 6,
        "changed": 0,
        "L0": nothing,
        "L2": nothing,
        "Linf": nothing,
        "psnr": None,
        "ssim": None,
    }
    assert found == expected
    assert Tally().summary() is None
    none = Tally()
    none.add(before.take(torch.arange(0)), before.take(torch.arange(0)))
    assert none.summary() is None


def test_a_card_shows_what_a_record_holds(store: Store) -> None:
    em = {"kind": "em", "generator": "lenet5", "steps": 1, "train_steps": 1, "max_rounds": 1}
    data = {"poison": [em, {"kind": "ops", "pixels": 2}], "limit": 40, "ratio": 0.5, "seed": 3}
    spec = DataSpec.parse(data, "test").pinned()
    store.ensure(spec)
    record = store.record(spec)
    assert record is not None
    lines = card.card(record)
    texts = dict(lines)
    assert texts["key"] == spec.key
    assert texts["images"].startswith("40 of 3x32x32")
    assert spec.source.fingerprint is not None
    assert spec.source.fingerprint in texts["source"]
    assert texts["ratio"] == "0.5 of each class is poisoned"
    assert texts["changed"] == "50 % of 40 images"
    assert [text.split(" ")[0] for label, text in lines if label == "poison"] == ["em", "ops"]
    assert any("generator: lenet5" in text for _, text in lines)
    assert texts["em: reached stop error"] == "no"
    assert "(20 in all)" in texts["ops: pixels"]
    assert "device cpu" in texts["made"]
    assert texts["platform"] == record["platform"]["name"]
    assert record["files"]["data.arrow"]["sha256"] in texts["file"]
    page = markdown(record)
    assert page.startswith("# digits (train), poison: em + ops\n")
    assert all(f"| {label} | " in page for label, _ in lines)


def test_a_clean_data_set_has_a_card_too(store: Store) -> None:
    spec = DataSpec.parse({"limit": 10}, "test").pinned()
    store.ensure(spec)
    labels = [label for label, _ in card.card(store.record(spec) or {})]
    assert "poison" in labels
    assert "L2" not in labels
    assert card.card({}) == []
    assert markdown({}) == ""


def test_characters_that_break_a_table_are_escaped() -> None:
    record = {
        "facts": {"imported": {"warnings": ["it changes", "nothing"], "none": []}},
        "key": "0" * 16, "shape": [3, 1, 1], "images": 1, "num_classes": 1, "warnings": ["a | b\nc"],
        "spec": {"source": {"kind": "digits"}, "split": "train", "poison": [{"kind": "clean"}], "limit": None,
                 "crafted_on": None, "ratio": 1.0, "seed": 0},
    }  # fmt: skip
    assert "| imported: warnings | it changes; nothing |\n| imported: none | none |" in markdown(record)
    assert "| warning | a \\| b c |" in markdown(record)
