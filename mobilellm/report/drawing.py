"""Style of the plots: colours from wide to deep, labels that do not overlap, SVG for two themes."""

import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobilellm.report.run_groups import RunGroup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]

# The page replaces these colours by CSS variables, for its light and its dark theme.
INK = "#1d2126"
MUTED = "#6b7480"
GRID = "#e3e6ea"
PAPER = "#fefefe"

LIGHT_RANGE = (0.82, 0.0)
"""Section of the colour map viridis, from the widest to the deepest configuration, for the light
theme. Colours that resemble the background are left out."""
DARK_RANGE = (1.0, 0.36)
"""The same for the dark theme."""
MAX_SOLID_LINES = 8
"""If there are more lines, they also differ in their pattern: more colours of one colour map are
hard to distinguish."""
LEGEND_CHARACTERS = 26
"""Width at which labels are wrapped."""


@contextmanager
def plot_style() -> Iterator[None]:
    """Set the fonts, sizes and colours of all figures that are drawn inside a `with` block."""
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
            # Labels may contain dollar signs, which must not start a formula.
            "text.parse_math": False,
        }
    ):
        yield


def palette(number: int, ends: tuple[float, float] = LIGHT_RANGE) -> list[str]:
    """Return `number` colours of viridis, from wide (bright) to deep (dark)."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    first, last = ends
    steps = [index / max(1, number - 1) for index in range(number)]
    return [to_hex(mpl.colormaps["viridis"](first + (last - first) * step)) for step in steps]


def line_styles(groups: Sequence[RunGroup]) -> list[dict[str, Any]]:
    """Return the line style of each group: dashed for shared blocks, otherwise mostly solid.

    If there are many groups, lines of similar colours get different patterns.
    """
    plain = ["-", (0, (1, 1.2)), (0, (6, 1.2, 1, 1.2))] if len(groups) > MAX_SOLID_LINES else ["-"]
    return [
        {"linestyle": (0, (4, 1.6)) if group.is_shared else plain[index % len(plain)]}
        for index, group in enumerate(groups)
    ]


def mark_style(group: RunGroup, colour: str) -> dict[str, Any]:
    """Return the marker style of a group: an open diamond for shared blocks, otherwise a dot."""
    if group.is_shared:
        return {"marker": "D", "markerfacecolor": PAPER, "markeredgecolor": colour}
    return {"marker": "o", "markerfacecolor": colour, "markeredgecolor": colour}


def write_figure(figure: "Figure", path: Path, colours: Sequence[str]) -> str:
    """Write a figure as PNG, and return it as SVG for a page.

    Args:
        figure: to write, within `plot_style`.
        path: of the PNG. Its stem is the prefix of all ids of the SVG, so that the SVGs of one page
            do not clash.
        colours: of the configurations; these and the colours above become CSS variables of the SVG.
    """
    fix_layout(figure)
    figure.savefig(path, dpi=150)
    return _svg_text(figure, path.stem, colours)


def _svg_text(figure: "Figure", name: str, colours: Sequence[str]) -> str:
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


def wrap_label(label: str, characters: int = LEGEND_CHARACTERS) -> str:
    """Insert line breaks into a long label."""
    return textwrap.fill(label, characters, break_long_words=False)


def label_points(
    axes: "Axes",
    points: Sequence[Point],
    texts: Sequence[str],
    segments: Iterable[tuple[Point, Point]] = (),
) -> None:
    """Write each text beside its point, where it hides the least.

    This must be called last, since it measures the axes as they are drawn and freezes their layout.

    Args:
        axes: to write on.
        points: in data coordinates.
        texts: one per point.
        segments: lines that the texts should not hide, in data coordinates.
    """
    figure = axes.get_figure(root=True)
    if figure is None:
        return
    fix_layout(figure)
    pixel = figure.dpi / 72
    places = axes.transData.transform(np.array(points))
    taken = [_square(place, 10 * pixel) for place in places]
    for segment in segments:
        taken += _squares_along(axes.transData.transform(np.array(segment)), 3 * pixel)
    frame = np.array(axes.get_window_extent().extents)
    for place, point, text in zip(places, points, texts, strict=True):
        note = axes.annotate(
            wrap_label(text), point, (0, 0), textcoords="offset points", fontsize=9
        )
        extent = note.get_window_extent()
        size = np.array([extent.width, extent.height])
        offsets = np.array(_offsets(*(size / pixel)))
        corners = place + offsets * pixel
        boxes = np.concatenate([corners, corners + size], axis=1)
        best = int(np.argmin([_hidden_area(box, np.array(taken), frame) for box in boxes]))
        note.set_position(tuple(offsets[best]))
        taken.append(boxes[best])


def fix_layout(figure: "Figure") -> None:
    """Compute the layout once and freeze it, so that measured positions stay valid.

    With a layout engine, matplotlib would also draw a figure twice for each file.
    """
    import matplotlib as mpl

    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        # `none` would leave an engine that does nothing.
        with mpl.rc_context({"figure.constrained_layout.use": False, "figure.autolayout": False}):
            figure.set_layout_engine(None)


def _square(middle: np.ndarray, side: float) -> np.ndarray:
    """Left, bottom, right and top of a square."""
    return np.concatenate([middle - side / 2, middle + side / 2])


def _squares_along(ends: np.ndarray, side: float) -> list[np.ndarray]:
    """Squares, in pixels, that cover a line segment."""
    steps = max(1, round(float(np.hypot(*(ends[1] - ends[0]))) / side))
    shares = np.linspace(0, 1, steps + 1)
    return [_square(ends[0] + share * (ends[1] - ends[0]), side) for share in shares]


def _offsets(width: float, height: float) -> list[Point]:
    """Possible positions of a text's lower left corner relative to its point, the best first."""
    right, left, middle = 7.0, -7.0 - width, -width / 2
    heights = [-height / 2 + 1, 5.0, -5.0 - height, 13.0, -13.0 - height, 24.0, -24.0 - height]
    return [(x, y) for y in heights for x in (right, left)] + [
        (middle, y) for y in (9.0, -9.0 - height, 20.0, -20.0 - height)
    ]


def _hidden_area(box: np.ndarray, taken: np.ndarray, frame: np.ndarray) -> float:
    """Area of a text box that overlaps something or lies outside the axes, in square pixels."""
    outside = float(np.prod(box[2:] - box[:2])) - float(_overlap_areas(box, frame[None]).sum())
    return float(_overlap_areas(box, taken).sum()) + outside


def _overlap_areas(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Areas of the overlap of a box with each of `others` (number, 4), in square pixels."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    return np.clip(high - low, 0, None).prod(axis=1)
