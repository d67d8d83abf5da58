"""Statistics of what a poison changes, and the card of a data set: its record in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poisons.sources.base import Survey
from trainers.images import Images
from trainers.printable import as_markdown

VALUES = 2**22  # pixel values compared at a time
ENOUGH = 1000  # images whose SSIM is computed, at most;
MUCH = 2**25  # and at most this many pixel values in all: 222 images of 3x224x224
CACHED = 2**17  # pixel values whose SSIM is computed at a time
WINDOW, SIGMA = 11, 1.5  # of SSIM, as in Wang et al.
SHOWN = 12  # longest list of rows that is shown completely
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

Array = np.ndarray[Any, Any]
Lines = Iterator[tuple[str, str]]


class Tally:
    """Statistics of changes, from image pairs added chunk by chunk; uses a few bytes of memory per image.

    SSIM is the expensive part: it is computed for every 2^k-th changed image, with the smallest k that leaves
    at most `ENOUGH` images and `MUCH` pixel values.
    """

    def __init__(self) -> None:
        self.pixels: list[Tensor] = []  # int64: positions where any channel changed, of each image
        self.squares: list[Tensor] = []  # int64: the sum of squared changes, in levels
        self.largest: list[Tensor] = []  # int64: the largest change, in levels
        self.similar: list[tuple[int, float]] = []  # SSIM, and which of the changed images it is
        self.values = self.changed = 0
        self.step = 1

    def add(self, before: Images, after: Images) -> None:
        """Add images before and after the change: the same number, of one shape."""
        self.values = math.prod(before.shape)
        rows = max(1, VALUES // self.values)
        for x, y in zip(before.x.split(rows), after.x.split(rows), strict=True):
            self._add(x.cpu(), y.cpu())

    def _add(self, x: Tensor, y: Tensor) -> None:
        moved = (y.to(torch.int16) - x).abs_()
        self.pixels.append(moved.amax(1).count_nonzero((1, 2)))
        self.largest.append(moved.amax((1, 2, 3)).long())
        self.squares.append(moved.int().square_().sum((1, 2, 3)))
        some = self.largest[-1].nonzero().squeeze(1)
        enough = max(1, min(ENOUGH, MUCH // self.values))
        while self.changed + len(some) > enough * self.step:
            self.step *= 2
        self.similar = [pair for pair in self.similar if pair[0] % self.step == 0]
        first = -self.changed % self.step  # of those changed here, the first whose number `step` divides
        chosen = some[first :: self.step]
        numbers = range(self.changed + first, self.changed + len(some), self.step)
        self.similar += zip(numbers, ssim(x[chosen], y[chosen]).tolist(), strict=True)
        self.changed += len(some)

    def summary(self) -> dict[str, Any] | None:
        """The statistics as JSON types, or None if no images were added.

        `changed` is the share of images that differ at all. Over all images: `L0` in pixels (positions where
        any channel differs), `L2` in units of the pixel range [0, 1], `Linf` in levels of 1/255. Over the
        changed images (None if there are none): `psnr` in dB, and `ssim` (Wang et al. 2004); `over` is the
        number of images compared.
        """
        if not sum(map(len, self.pixels)):
            return None
        squares = torch.cat(self.squares).double().numpy()
        noise = squares[squares > 0] / self.values
        return {
            "images": len(squares),
            "changed": round(self.changed / len(squares), 6),
            "L0": _spread(torch.cat(self.pixels).numpy()),
            "L2": _spread(np.sqrt(squares) / 255),
            "Linf": _spread(torch.cat(self.largest).numpy()),
            "psnr": _low(10 * np.log10(255**2 / noise)),
            "ssim": _low(np.array([value for _, value in self.similar])),
        }


def ssim(x: Tensor, y: Tensor) -> Array:
    """Structural similarity (Wang et al., IEEE TIP 2004) of uint8 images N,C,H,W: N numbers, 1 where equal.

    A Gaussian window of 11x11 (for smaller images the largest odd size that fits), only where it is entirely
    inside the image; per channel, then averaged.
    """
    rows = max(1, CACHED // math.prod(x.shape[1:]))
    found = [np.empty(0)]
    for at in range(0, len(x), rows):
        p, q = (t[at : at + rows].float().numpy() - 128 for t in (x, y))
        found.append(_ssim(p, q).mean((1, 2, 3)))
    return np.concatenate(found)


def _ssim(p: Array, q: Array) -> Array:
    """SSIM at each window position, for values minus 128: squares are subtracted, so they should be small."""
    p1, q1 = _local(p), _local(q)
    pp, qq, pq = _local(p * p) - p1 * p1, _local(q * q) - q1 * q1, _local(p * q) - p1 * q1
    p1, q1 = p1 + 128, q1 + 128
    return (2 * p1 * q1 + C1) * (2 * pq + C2) / ((p1 * p1 + q1 * q1 + C1) * (pp + qq + C2))


def _local(x: Array) -> Array:
    """The weighted mean under the window at each position; for N,C,H,W."""
    size = (min(WINDOW, *x.shape[2:]) + 1) // 2 * 2 - 1
    weight = [math.exp(-((at - size // 2) ** 2) / (2 * SIGMA**2)) for at in range(size)]
    for side in (2, 3):
        places = x.shape[side] - size + 1
        from_top = np.moveaxis(x, side, 0)
        mean = sum(from_top[at : at + places] * np.float32(w / sum(weight)) for at, w in enumerate(weight))
        x = np.moveaxis(np.asarray(mean), 0, side)
    return x


def _spread(values: Array) -> dict[str, float]:
    low, middle, high = np.percentile(values, (5, 50, 95))
    found = {"mean": values.mean(), "p5": low, "p50": middle, "p95": high, "max": values.max()}
    return {name: round(float(value), 6) for name, value in found.items()}


def _low(values: Array) -> dict[str, float] | None:
    """Summary of a measure that is low for large changes; `over` is the number of images."""
    if not len(values):
        return None
    return {"mean": round(float(values.mean()), 6), "min": round(float(values.min()), 6), "over": len(values)}


def card(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A data set's record as readable lines, (label, text); none for an empty record."""
    if not record:
        return []
    parts = (
        _images(record),
        _spec(record["spec"]),
        _change(record.get("change")),
        _facts(record),
        _made(record),
    )
    return [line for part in parts for line in part]


def markdown(record: Mapping[str, Any]) -> str:
    """The card as a page of Markdown."""
    if not record:
        return ""
    spec = record["spec"]
    title = f"# {spec['source']['kind']} ({spec['split']}), poison: {_kinds(spec)}"
    rows = [f"| {as_cell(label)} | {as_cell(text)} |" for label, text in card(record)]
    return "\n".join([title, "", "| what | |", "|---|---|", *rows, ""])


def as_cell(words: str) -> str:
    """Text escaped as a cell of a Markdown table."""
    return as_markdown(words).replace("|", "\\|")


def _kinds(spec: Mapping[str, Any]) -> str:
    by = spec.get("restored_by")
    return " + ".join(poison["kind"] for poison in spec["poison"]) + (
        f", restored by {by['kind']}" if by else ""
    )


def _images(record: Mapping[str, Any]) -> Lines:
    channels, height, width = record["shape"]
    yield "key", record["key"]
    yield (
        "images",
        f"{record['images']:,} of {channels}x{height}x{width} (channels, height, width), "
        f"{record['num_classes']} classes",
    )
    if names := record.get("class_names"):
        yield "classes", _numbered(names)
    for line in Survey(tuple(record.get("skipped", ())), tuple(record.get("notes", ()))).lines():
        yield "source files", line


def _numbered(names: Sequence[str]) -> str:
    """`0 cat, 1 dog`; if there are many, the first few and the last."""
    parts = [f"{label} {name}" for label, name in enumerate(names)]
    if len(parts) > SHOWN:
        parts = [*parts[:3], f"... ({len(parts):,} in all)", parts[-1]]
    return ", ".join(parts)


def _spec(spec: Mapping[str, Any]) -> Lines:
    yield "source", f"{_setting(spec['source'])}; split {spec['split']}"
    if spec.get("limit") is not None:
        yield "limit", f"at most {spec['limit']:,} images, classes in equal numbers"
    for poison in spec["poison"]:
        yield "poison", _setting(poison)
    if spec.get("crafted_on") is not None:
        yield "crafted on", _setting(spec["crafted_on"])
    if spec.get("ratio", 1) != 1:
        yield "ratio", f"{spec['ratio']:g} of each class is poisoned"
    if spec.get("shuffled"):
        yield "shuffled", "each label and perturbation is on the content of another image"
    if spec.get("restored_by") is not None:
        yield "restored by", _setting(spec["restored_by"])
    yield "seed", str(spec.get("seed", 0))


def _change(change: Mapping[str, Any] | None) -> Lines:
    if change is None:
        return
    yield "changed", f"{100 * change['changed']:.4g} % of {change['images']:,} images"
    for name, unit in (("L0", "in pixels"), ("L2", "the range being [0, 1]"), ("Linf", "in levels of 1/255")):
        spread = change[name]
        middle = f"mean {spread['mean']:.4g}, median {spread['p50']:.4g}"
        ends = f"5 % to 95 %: {spread['p5']:.4g} to {spread['p95']:.4g}, largest {spread['max']:.4g}"
        yield name, f"{middle}, {ends} ({unit})"
    altered = round(change["changed"] * change["images"])
    for name, unit in (("psnr", " dB"), ("ssim", "")):
        if (low := change[name]) is not None:
            least = f"mean {low['mean']:.4g}{unit}, lowest {low['min']:.4g}{unit}"
            yield name.upper(), f"{least}, of {_share(low['over'], altered)} changed images"


def _share(number: int, whole: int) -> str:
    return f"{number:,}" if number == whole else f"{number:,} of {whole:,}"


def _facts(record: Mapping[str, Any]) -> Lines:
    for kind, facts in record.get("facts", {}).items():
        for name, fact in facts.items():
            yield f"{kind}: {name.replace('_', ' ')}", _fact(fact)


def _made(record: Mapping[str, Any]) -> Lines:
    yield from (("warning", warning) for warning in record.get("warnings", ()))
    known = record.get("environment")
    if known is not None:
        device, seconds = record.get("device", "?"), record.get("seconds", "?")
        where = f" on {known['host']}" if "host" in known else ""
        yield "made", f"{known.get('time', '?')}{where}, device {device}, in {seconds} s"
        versions = ", ".join(f"{name} {version}" for name, version in known.get("versions", {}).items())
        if platform := (record.get("platform") or {}).get("name"):
            yield "platform", platform
        commit, python = known.get("commit") or "unknown", known.get("python", "?")
        yield "with", f"commit {commit}, python {python}, {versions}"
    for name, file in record.get("files", {}).items():
        yield "file", f"{name}, {file['bytes'] / 1e6:.3g} MB, sha256 {file['sha256']}"


def _setting(value: Any) -> str:
    """Settings in one line: `em (eps: 8/255, generator: resnet18 (width: 64))`."""
    if isinstance(value, dict):
        fields = {name: _setting(item) for name, item in value.items() if item is not None and name != "kind"}
        inside = ", ".join(f"{name}: {text}" for name, text in fields.items())
        return f"{value.get('kind', '')} ({inside})".strip() if inside else str(value.get("kind", "-"))
    if isinstance(value, list):
        return f"[{', '.join(map(_setting, value))}]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _fact(fact: Any) -> str:
    """A fact in one line; of a long list the first few entries and the last."""
    if not isinstance(fact, list) or not all(isinstance(row, dict | str) for row in fact):
        return _setting(fact)
    if not fact:
        return "none"
    rows = [row if isinstance(row, str) else _row(row) for row in fact]
    if len(rows) > SHOWN:
        rows = [*rows[:3], f"... ({len(rows)} in all)", rows[-1]]
    return "; ".join(rows)


def _row(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_setting(item)}" for name, item in row.items())
