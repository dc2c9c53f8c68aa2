"""How the plots look: colours from wide to deep, labels that do not collide, themed SVG."""

import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilellm.report.shapes import Shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]

# Colours that the page replaces, so that one drawing suits light and dark.
INK = "#1d2126"
MUTED = "#6b7480"
GRID = "#e3e6ea"
PAPER = "#fefefe"

LIGHT_RANGE = (0.82, 0.0)
DARK_RANGE = (1.0, 0.36)
"""Ends of viridis for the widest and the deepest shape; cut where the background hides them."""
FEW_COLOURS = 8
"""So many colours of one scale can be told apart."""
LEGEND_CHARACTERS = 26
"""Longer names go on in the next line."""


@contextmanager
def house_style() -> Iterator[None]:
    """Fonts, sizes and colours of every figure, for the time of a `with` block."""
    import matplotlib as mpl

    with mpl.rc_context(
        {
            "font.family": ["DejaVu Sans"],
            "font.size": 10,
            "axes.titlesize": 10.5,
            "axes.titlelocation": "left",
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": GRID,
            "grid.linewidth": 0.8,
            "text.color": INK,
            "xtick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.color": MUTED,
            "ytick.labelcolor": INK,
            "figure.facecolor": PAPER,
            "axes.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "legend.frameon": False,
            "svg.fonttype": "none",
            # Names of runs are texts of users: no formula begins with their dollar sign.
            "text.parse_math": False,
        }
    ):
        yield


def palette(number: int, ends: tuple[float, float] = LIGHT_RANGE) -> list[str]:
    """`number` colours of viridis, from wide (bright) to deep (dark)."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    first, last = ends
    steps = [index / max(1, number - 1) for index in range(number)]
    return [to_hex(mpl.colormaps["viridis"](first + (last - first) * step)) for step in steps]


def line_styles(shapes: Sequence[Shape]) -> list[dict[str, Any]]:
    """Dashed where blocks are shared; of many shapes neighbours in colour differ in their dots."""
    plain = ["-", (0, (1, 1.2)), (0, (6, 1.2, 1, 1.2))] if len(shapes) > FEW_COLOURS else ["-"]
    return [
        {"linestyle": (0, (4, 1.6)) if shape.is_shared else plain[index % len(plain)]}
        for index, shape in enumerate(shapes)
    ]


def mark_style(shape: Shape, colour: str) -> dict[str, Any]:
    """An open diamond where blocks are shared, else a dot."""
    if shape.is_shared:
        return {"marker": "D", "markerfacecolor": PAPER, "markeredgecolor": colour}
    return {"marker": "o", "markerfacecolor": colour, "markeredgecolor": colour}


def svg_text(figure: "Figure", name: str, colours: Sequence[str]) -> str:
    """The figure as SVG for a page: its colours as CSS variables, its ids its own."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", svg, count=1)
    named = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"}
    named |= {colour: f"--shape-{index}" for index, colour in enumerate(colours)}
    for colour, variable in named.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg


def folded(label: str, characters: int = LEGEND_CHARACTERS) -> str:
    """A long name in several lines."""
    return textwrap.fill(label, characters, break_long_words=False)


def label_points(
    axes: "Axes",
    points: Sequence[Point],
    texts: Sequence[str],
    segments: Iterable[tuple[Point, Point]] = (),
) -> None:
    """Write each text beside its point, where it covers no point, segment or other text.

    Call it last: it measures the axes as they will be drawn, and fixes their layout.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        return
    fix_layout(figure)
    pixel = figure.dpi / 72
    places = axes.transData.transform(np.array(points))
    taken = [_square(place, 10 * pixel) for place in places]
    for segment in segments:
        taken += _along(axes.transData.transform(np.array(segment)), 3 * pixel)
    frame = np.array(axes.get_window_extent().extents)
    for place, point, text in zip(places, points, texts, strict=True):
        note = axes.annotate(folded(text), point, (0, 0), textcoords="offset points", fontsize=9)
        extent = note.get_window_extent()
        size = np.array([extent.width, extent.height])
        offsets = np.array(_offsets(*(size / pixel)))
        corners = place + offsets * pixel
        boxes = np.concatenate([corners, corners + size], axis=1)
        best = int(np.argmin([_covered(box, np.array(taken), frame) for box in boxes]))
        note.set_position(tuple(offsets[best]))
        taken.append(boxes[best])


def fix_layout(figure: "Figure") -> None:
    """Lay the figure out once, so that what is measured stays and drawing again is quick."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _square(middle: np.ndarray, side: float) -> np.ndarray:
    """Left, bottom, right and top of a square."""
    return np.concatenate([middle - side / 2, middle + side / 2])


def _along(ends: np.ndarray, side: float) -> list[np.ndarray]:
    """Squares that cover a segment, in pixels."""
    steps = max(1, round(float(np.hypot(*(ends[1] - ends[0]))) / side))
    shares = np.linspace(0, 1, steps + 1)
    return [_square(ends[0] + share * (ends[1] - ends[0]), side) for share in shares]


def _offsets(width: float, height: float) -> list[Point]:
    """Lower left corners of a text about its point, in points, the preferred first."""
    right, left, middle = 7.0, -7.0 - width, -width / 2
    heights = [-height / 2 + 1, 5.0, -5.0 - height, 13.0, -13.0 - height, 24.0, -24.0 - height]
    return [(x, y) for y in heights for x in (right, left)] + [
        (middle, y) for y in (9.0, -9.0 - height, 20.0, -20.0 - height)
    ]


def _covered(box: np.ndarray, taken: np.ndarray, frame: np.ndarray) -> float:
    """Area of a text that lies on something or outside the axes, in square pixels."""
    outside = float(np.prod(box[2:] - box[:2])) - float(_shared(box, frame[None]).sum())
    return float(_shared(box, taken).sum()) + outside


def _shared(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area that a box shares with each of others (boxes, 4)."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    return np.clip(high - low, 0, None).prod(axis=1)
