"""A matplotlib figure as SVG inside a page. Colours are variables of the page's style sheet, so that they
follow dark mode and print; text stays text."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trainers.printable import printable

SERIES = 8  # colours of the style sheet, --c1 and so on
INK, FAINT, RULE, PAPER = "#0000e1", "#0000e2", "#0000e3", "#0000e4"
WIDTH, HEIGHT = 320, 190  # of a panel, CSS pixels
LEFT, RIGHT, TOP, BOTTOM = 36, 12, 8, 32  # margins around its axes
TIP = "tip:"  # prefix of the ids that become tooltips

VARIABLES = {INK: "--ink", FAINT: "--faint", RULE: "--rule", PAPER: "--paper"} | {
    f"#0000f{i}": f"--c{i}" for i in range(1, SERIES + 1)
}
DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">")  # a diamond is a published figure
DEFAULTS = r" ?font-family: [^;]*;| ?stroke-dashoffset: 0(;|$)| ?stroke-line(join|cap): (miter|square)(;|$)"
NO_XML = re.compile(r"[^\t\n\r -\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")  # characters not allowed in XML
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "opsctl",
    "text.parse_math": False,
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": FAINT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.bottom": False,
    "ytick.left": False,
    "lines.linewidth": 1.7,
    "path.simplify_threshold": 0.2,
}


def colour(index: int) -> str:
    """The colour of this series. Colours repeat after the last; dashes then differ."""
    return f"#0000f{index % SERIES + 1}"


def dash(index: int) -> str | tuple[float, tuple[float, ...]]:
    """The dash pattern of this series, so that lines differ in more than colour; up to 32 differ."""
    return DASHES[(index + index // SERIES) % len(DASHES)]


def marker(index: int) -> str:
    """The marker for points of this series."""
    return MARKERS[(index + index // SERIES) % len(MARKERS)]


@contextmanager
def panel(
    width: float = WIDTH, height: float = HEIGHT, *, left: float = LEFT, bottom: float = BOTTOM
) -> Iterator[tuple[Figure, Axes]]:
    """A figure of this size and with these margins, in CSS pixels, with one pair of axes in the page's style.
    Draw and save it inside the `with` block."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        box = (
            left / width,
            bottom / height,
            (width - left - RIGHT) / width,
            (height - TOP - bottom) / height,
        )
        yield figure, figure.add_axes(box)


def dot(
    axes: Axes, x: float, y: float, tooltip: str, *, face: str, edge: str | None = None, mark: str = "o"
) -> None:
    """A marker for one trial or one published figure, with a tooltip. With an `edge` it is drawn on top, with
    a heavier outline."""
    axes.plot(
        [x],
        [y],
        linestyle="none",
        marker=mark,
        markersize=6,
        markerfacecolor=face,
        markeredgecolor=edge or face,
        markeredgewidth=1.4 if edge else 0.6,
        alpha=1 if edge else 0.75,
        zorder=4 if edge else 3,
        gid=tip(tooltip),
    )


def tip(text: str) -> str:
    """The `gid` of an artist with the tooltip `text`."""
    return TIP + text


def svg(figure: Figure, label: str) -> str:
    """The figure as one `<svg>` element; `label` is its text for screen readers."""
    sink = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(sink, format="svg", transparent=True, metadata=nothing)
    digest = hashlib.sha256(sink.getvalue()).hexdigest()[:8]
    drawn = ElementTree.fromstring(_xml(sink.getvalue().decode()))
    label = _xml(label)
    root = Element("svg", {"role": "img", "aria-label": label, "viewBox": drawn.attrib["viewBox"]})
    root.extend(part for child in drawn for part in _inlined(child, f"f{digest}"))
    return ElementTree.tostring(root, encoding="unicode")


def _xml(text: str) -> str:
    """Text without characters that XML does not allow: control characters are spelt out, others removed."""
    return NO_XML.sub("", printable(text))


def _inlined(element: Element, own: str) -> list[Element]:
    """matplotlib's output, made fit for a page with many figures: no metadata, ids with the prefix `own`, no
    empty groups, and numbers rounded to a tenth of a pixel."""
    tag = element.tag.rpartition("}")[2]
    if tag in ("metadata", "style"):
        return []
    parts = [part for child in element for part in _inlined(child, own)]
    own_id = element.attrib.get("id", "")
    kept = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    if tag == "g":
        kept.pop("id", None)
    if tag in ("g", "defs") and not kept and not own_id.startswith(TIP):
        return parts if tag == "g" else _group("defs", {}, parts)
    if kept.get("style") == "fill: none":  # the frame of the figure, that of the axes
        return []
    made = Element(tag, {name: _rewritten(name, value, own) for name, value in kept.items()})
    made.attrib = {name: value for name, value in made.attrib.items() if value}
    made.text = element.text if tag == "text" else None
    if own_id.startswith(TIP):
        SubElement(made, "title").text = own_id.removeprefix(TIP)
    made.extend(parts)
    return [made]


def _group(tag: str, attributes: dict[str, str], parts: list[Element]) -> list[Element]:
    """An element around the parts; nothing if there are none."""
    made = Element(tag, attributes)
    made.extend(parts)
    return [made] if parts else []


def _rewritten(name: str, value: str, own: str) -> str:
    """The value of an attribute, rewritten for the page."""
    if name == "id":
        return own + value
    if name == "href":
        return value.replace("#", f"#{own}") if value.startswith("#") else value
    if name == "clip-path":
        return value.replace("url(#", f"url(#{own}")
    if name == "transform" and value.startswith("rotate(-0 "):
        return ""
    if name == "style":
        value = re.sub(r"#0000[ef]\d", lambda found: f"var({VARIABLES[found[0]]})", value)
        return re.sub(DEFAULTS, "", value).strip("; ")
    return re.sub(r"(\d+\.\d)\d+", r"\1", " ".join(value.split()))
