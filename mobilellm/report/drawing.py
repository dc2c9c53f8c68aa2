"""How the plots look: colours from wide to deep, labels that do not collide, themed SVG."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mobilellm.report.shapes import Shape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that the page replaces, so that one drawing suits light and dark.
INK = "#1d2126"
MUTED = "#6b7480"
GRID = "#e3e6ea"
PAPER = "#fefefe"

LIGHT_RANGE = (0.82, 0.0)
DARK_RANGE = (1.0, 0.36)
"""Ends of viridis for the widest and the deepest shape; cut where the background hides them."""


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
            "axes.formatter.use_mathtext": True,
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


def line_style(shape: Shape) -> dict[str, Any]:
    """Dashed where blocks are shared."""
    return {"linestyle": (0, (4, 1.6)) if shape.is_shared else "-"}


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


def label_points(axes: "Axes", points: Sequence[tuple[float, float]], texts: Sequence[str]) -> None:
    """Write each text beside its point, where it covers neither a point nor another text.

    Call it last: it measures the axes as they will be drawn.
    """
    from matplotlib.transforms import Bbox

    figure = axes.get_figure(root=True)
    if figure is None:
        return
    figure.canvas.draw()
    pixel = figure.dpi / 72
    places = [tuple(axes.transData.transform(point)) for point in points]
    mark = 8 * pixel
    taken = [Bbox.from_bounds(x - mark / 2, y - mark / 2, mark, mark) for x, y in places]
    frame = axes.get_window_extent()
    for (x, y), point, text in zip(places, points, texts, strict=True):
        note = axes.annotate(text, point, (0, 0), textcoords="offset points", fontsize=9)
        size = note.get_window_extent()
        best = min(
            _offsets(size.width / pixel, size.height / pixel),
            key=lambda offset: _cost(offset, size, (x, y), pixel, taken, frame),
        )
        note.set_position(best)
        box = Bbox.from_bounds(x + best[0] * pixel, y + best[1] * pixel, size.width, size.height)
        taken.append(box)


def _offsets(width: float, height: float) -> list[tuple[float, float]]:
    """Lower left corners of a text about its point, in points, the preferred first."""
    right, left, middle = 7.0, -7.0 - width, -width / 2
    near = [(right, -height / 2 + 1), (middle, 8), (middle, -8 - height), (left, -height / 2 + 1)]
    far = [(x, y) for y in (10, -10 - height, 20, -20 - height) for x in (right, left, middle)]
    return near + far


def _cost(offset, size, place, pixel, taken, frame) -> float:
    """Area covered that should not be, in square pixels, and the distance as a tie-break."""
    from matplotlib.transforms import Bbox

    corner = (place[0] + offset[0] * pixel, place[1] + offset[1] * pixel)
    box = Bbox.from_bounds(*corner, size.width, size.height)
    covered = sum(
        shared.width * shared.height
        for other in taken
        if (shared := Bbox.intersection(box, other)) is not None
    )
    inside = Bbox.intersection(box, frame)
    outside = box.width * box.height - (inside.width * inside.height if inside else 0)
    return covered + outside + 0.01 * (abs(offset[0]) + abs(offset[1]))
