"""The picture of a data set: an image of each class, clean, poisoned, and their difference, as PNG."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poisons.base import Perturbation
from poisons.perturbations.filtering import Filtering
from poisons.perturbations.pixel_write import PixelWrite
from poisons.store.build import per_chunk
from trainers.images import Images
from trainers.spec import InputError

CLASSES = 40  # shown, at most
LABELLED = 200  # labelled pixels of the map, at most
COLUMNS, WIDTH = 20, 2000  # of the grid, at most; pixels
TILE, LARGEST, PANEL = 96, 256, 640  # sides of a tile, about and at most, and of the map of pixels; pixels
GAP, MARGIN, LINE, EDGE, LEFT, TEXT = 5, 14, 20, 28, 86, 13
GREY, LUMA = 128, (0.299, 0.587, 0.114)
PAPER, INK, FAINT, FRAME = (241, 243, 246), (20, 20, 20), (95, 95, 95), (70, 70, 70)

Array = np.ndarray[Any, Any]
Place = tuple[int, int]  # row and column
Box = tuple[float, float, float, float]


def draw(
    clean: Images,
    poisoned: Images,
    perturbation: Perturbation | None = None,
    restored: Images | None = None,
) -> bytes:
    """A PNG: for each class (the first `CLASSES`) the first changed image, or else the first image: clean,
    poisoned, and the difference around mid-grey, scaled so that the largest fills the range; and the same of
    `restored` images, if there are any.

    For a perturbation that writes class-wise pixels it also shows these pixels, and a map of the pixels of
    all classes; the scale then ignores them, if anything else changed. Filters are shown in a line.
    """
    classes = poisoned.y.unique().tolist()
    shown = classes[:CLASSES]
    still = perturbation is not None and not perturbation.changes
    rows = torch.tensor(_examples(clean, poisoned, shown, still=still))
    writes = [link for link in _links(perturbation) if link.per == "class"]
    pixels = [("pixels", _pixels(write, shown, poisoned)) for write in writes]
    filters = [("filter", _filter(link, shown)) for link in _filters(perturbation)]
    lines, notes = [("clean", clean.x[rows].cpu())], []
    if len(shown) < len(classes):
        notes.append(f"The first {len(shown)} of {len(classes)} classes.")
    after = poisoned.x[rows].cpu()
    if not torch.equal(lines[0][1], after):
        title, difference, note = _difference(lines[0][1], after, [x for _, x in pixels])
        lines += [("poisoned", after), (title, difference)]
        notes.append(note)
    if restored is not None and not torch.equal(lines[0][1], now := restored.x[rows].cpu()):
        title, difference, note = _difference(lines[0][1], now, [])
        lines += [("restored", now), (title, difference)]
        notes.append(note.replace("Differences", "Those of the restored images"))
    parts = [_grid([str(k) for k in shown], lines + pixels + filters), *map(_map, writes)]
    return _stacked(parts, notes)


def _difference(before: Tensor, after: Tensor, pixels: list[Tensor]) -> tuple[str, Tensor, str]:
    """A title, the difference as uint8 N,C,H,W around grey, and a note on its scale."""
    moved = after.int() - before.int()
    rest = moved.clone()
    for x in pixels:
        rest[(x != GREY).any(1, keepdim=True).expand_as(rest)] = 0
    largest, where = int(rest.abs().max()), ", the written pixels aside,"
    if not pixels or not largest:
        largest, where = int(moved.abs().max()), ""
    factor = 127 / largest
    difference = (GREY + (moved * factor).round()).clamp(0, 255).to(torch.uint8)
    note = f"Differences are shown around grey; the largest{where} is {largest} levels of 1/255."
    return f"difference\nx {factor:.3g}", difference, note


def pillow() -> tuple[Any, Any, Any]:
    """Pillow's Image, ImageDraw and ImageFont."""
    try:
        from PIL import Image, ImageDraw, ImageFont  # here, for machines that only open finished data sets
    except ImportError:
        raise InputError("writing images needs Pillow: pip install pillow") from None
    return Image, ImageDraw, ImageFont


def _examples(clean: Images, poisoned: Images, classes: list[int], *, still: bool) -> list[int]:
    """For each class the row of its first changed image, or of its first image; `still` means that none
    changed."""
    first = {k: int((poisoned.y == k).nonzero()[0]) for k in classes}
    changed: dict[int, int] = {}
    size, at = per_chunk(clean), 0
    for before, after in zip(clean.chunks(size), poisoned.chunks(size), strict=True):
        if still or changed.keys() >= first.keys():
            break
        moved = (before.x != after.x).flatten(1).any(1)
        labels = after.y[moved].tolist()
        for row, k in zip(moved.nonzero().squeeze(1).tolist(), labels, strict=True):
            changed.setdefault(k, at + row)
        at += len(after)
    return [changed.get(k, first[k]) for k in classes]


def _links(perturbation: Perturbation | None) -> Iterator[PixelWrite]:
    links = () if perturbation is None else perturbation.flat()
    return (link for link in links if isinstance(link, PixelWrite))


def _filters(perturbation: Perturbation | None) -> Iterator[Filtering]:
    links = () if perturbation is None else perturbation.flat()
    return (link for link in links if isinstance(link, Filtering))


def _filter(link: Filtering, classes: list[int]) -> Tensor:
    """The filter of each class as a grey image, its largest value white."""
    chosen = link.filters[classes]
    return (chosen / chosen.amax((1, 2), keepdim=True).clamp(min=1e-9) * 255).round().to(torch.uint8)[:, None]


def _pixels(write: PixelWrite, classes: list[int], like: Images) -> Tensor:
    """A grey image of each class after `write`."""
    x = torch.full((len(classes), *like.shape), GREY, dtype=torch.uint8)
    return write.apply(Images(x, torch.tensor(classes), like.num_classes)).x


def _rgb(x: Tensor) -> Array:
    """uint8 C,H,W as H,W,3: the first channel of one or two, the first three of more."""
    shown = x[:3] if len(x) >= 3 else x[:1].expand(3, -1, -1)
    return shown.permute(1, 2, 0).contiguous().numpy()


def _tile(x: Tensor) -> Any:
    """One image, enlarged by an integer factor, or reduced."""
    image_module, _, _ = pillow()
    image, side = image_module.fromarray(_rgb(x)), max(x.shape[1:])
    factor = max(1, round(TILE / side)) if side <= LARGEST else LARGEST / side
    size = tuple(max(1, round(length * factor)) for length in image.size)
    return image.resize(size, image_module.Resampling.NEAREST if factor >= 1 else image_module.Resampling.BOX)


def _grid(labels: list[str], lines: list[tuple[str, Tensor]]) -> Any:
    """Tiles in columns under `labels`, one line per title; columns that do not fit continue below."""
    image_module, draw_module, font_module = pillow()
    width, height = _tile(lines[0][1][0]).size
    fit = max(1, min(COLUMNS, (WIDTH - LEFT) // (width + GAP)))
    blocks = math.ceil(len(labels) / fit)
    wide = math.ceil(len(labels) / blocks)
    block = LINE + len(lines) * (height + GAP) + 3 * GAP
    canvas = image_module.new("RGB", (LEFT + wide * (width + GAP), blocks * block), PAPER)
    pen, font = draw_module.Draw(canvas), font_module.load_default(14)
    for i, label in enumerate(labels):
        x, y = LEFT + i % wide * (width + GAP), i // wide * block
        pen.text((x + width / 2, y + LINE / 2), label, INK, font=font, anchor="mm")
        for number, (_, images) in enumerate(lines):
            top = y + LINE + number * (height + GAP)
            pen.rectangle((x - 1, top - 1, x + width, top + height), FRAME)
            canvas.paste(_tile(images[i]), (x, top))
    for turn, (number, (title, _)) in itertools.product(range(blocks), enumerate(lines)):
        middle = turn * block + LINE + number * (height + GAP) + height / 2
        pen.multiline_text((0, middle), title, FAINT, font=font, anchor="lm")
    return canvas


def _map(write: PixelWrite) -> Any:
    """The pixels of all classes on grey, enlarged, with their class numbers."""
    image_module, draw_module, font_module = pillow()
    height, width = write.shape
    cell = max(1, round(PANEL / max(height, width)))
    right, bottom = EDGE + width * cell, LINE + EDGE + height * cell
    canvas = image_module.new("RGB", (right + EDGE, bottom + EDGE), PAPER)
    pen, font = draw_module.Draw(canvas), font_module.load_default(13)
    pen.text((0, LINE / 2), "pixels of all classes", INK, font=font, anchor="lm")
    pen.rectangle((EDGE - 1, LINE + EDGE - 1, right, bottom), (GREY,) * 3, FRAME)
    boxes: dict[Place, Box] = {}
    texts: dict[Place, str] = {}
    for (row, column), found in _places(write).items():
        x, y = EDGE + column * cell, LINE + EDGE + row * cell
        boxes[row, column] = (x, y, x + cell, y + cell)
        for i, colour in enumerate(found.values()):  # classes that share a position share its cell
            here, there = x + i * cell // len(found), x + (i + 1) * cell // len(found)
            if there > here:
                pen.rectangle((here, y, there - 1, y + cell - 1), colour)
        text = ",".join(map(str, found))
        if len(found) > 1 or pen.textlength(text, font=font) + 2 > cell:
            texts[row, column] = text
            continue
        dark = sum(part * share for part, share in zip(colour, LUMA, strict=True)) < GREY
        pen.text((x + cell / 2, y + cell / 2), text, "white" if dark else INK, font=font, anchor="mm")
    _label(pen, font, boxes, texts, canvas.size)
    return canvas


def _places(write: PixelWrite) -> dict[Place, dict[int, tuple[int, ...]]]:
    """For each position its classes, with their final colours."""
    found: dict[Place, dict[int, tuple[int, ...]]] = {}
    for pixel in write.facts()["pixels"]:
        colour = tuple(pixel["colour"])
        colour = colour[:3] if len(colour) >= 3 else colour[:1] * 3
        found.setdefault((pixel["row"], pixel["column"]), {})[pixel["class"]] = colour
    return found


def _label(
    pen: Any, font: Any, boxes: dict[Place, Box], texts: dict[Place, str], size: tuple[int, int]
) -> None:
    """Write each text near its box where it covers neither a box nor another text, with a line to it if it is
    far away. Adjacent boxes share one text."""
    taken, labelled = list(boxes.values()), set[tuple[int, int, str]]()
    for (row, column), text in list(texts.items())[:LABELLED]:
        near = {(row + i, column + j, text) for i, j in itertools.product((-1, 0, 1), repeat=2)}
        known = bool(near & labelled)
        labelled.add((row, column, text))
        free = None if known else _free(boxes[row, column], pen.textlength(text, font=font) + 4, taken, size)
        if free is None:
            continue
        box, far = free
        taken.append(box)
        end = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        if far:
            left, top, right, bottom = boxes[row, column]
            pen.line(((left + right) / 2, (top + bottom) / 2, *end), FRAME)
        pen.text(end, text, INK, font=font, anchor="mm")


def _free(box: Box, width: float, taken: list[Box], size: tuple[int, int]) -> tuple[Box, bool] | None:
    """A free place for a text of this width beside `box`, or farther away; None if there is none."""
    left, top, right, bottom = box
    for far, (dx, dy) in itertools.product(range(12), ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, 1))):
        x = (left + right) / 2 + dx * ((right - left + width) / 2 + far * 10)
        y = (top + bottom) / 2 + dy * ((bottom - top + TEXT) / 2 + far * 10)
        found = (x - width / 2, y - TEXT / 2, x + width / 2, y + TEXT / 2)
        if _inside(found, size) and not any(_meet(found, other) for other in taken):
            return found, far > 0
    return None


def _inside(box: Box, size: tuple[int, int]) -> bool:
    return box[0] >= 0 and box[1] >= LINE and box[2] <= size[0] and box[3] <= size[1]


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _stacked(parts: list[Any], notes: list[str]) -> bytes:
    """Images stacked vertically, with notes below the first, as PNG."""
    image_module, draw_module, font_module = pillow()
    font = font_module.load_default(14)
    width = max(520, *(part.width for part in parts)) + 2 * MARGIN
    height = sum(part.height + MARGIN for part in parts) + (LINE + MARGIN) * bool(notes) + MARGIN
    canvas, y = image_module.new("RGB", (width, height), PAPER), MARGIN
    for i, part in enumerate(parts):
        canvas.paste(part, (MARGIN, y))
        y += part.height + MARGIN
        if i == 0 and notes:
            pen = draw_module.Draw(canvas)
            pen.text((MARGIN, y - MARGIN / 2), "  ".join(notes), FAINT, font=font, anchor="lm")
            y += LINE
    sink = io.BytesIO()
    canvas.save(sink, "PNG")
    return sink.getvalue()
