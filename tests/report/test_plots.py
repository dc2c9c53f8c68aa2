"""Fronts, colours and labels of the plots."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from mobilellm.report.coordinate_plot import coordinate_figure
from mobilellm.report.drawing import DARK_RANGE, LIGHT_RANGE, label_points, palette
from mobilellm.report.final_plots import pareto_front


@pytest.mark.parametrize("seed", range(10))
def test_front_is_what_nothing_dominates(seed):
    random = np.random.default_rng(seed)
    points = [tuple(point) for point in random.integers(0, 8, (20, 2)).tolist()]
    expected = {
        point
        for point in points
        if not any(
            other[0] <= point[0] and other[1] <= point[1] and other != point for other in points
        )
    }
    assert set(pareto_front(points)) == expected


def luminance(colour):
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("ends", [LIGHT_RANGE, DARK_RANGE])
def test_colours_darken_with_depth_for_every_eye(ends):
    """Lightness alone tells deep from wide, so that no kind of colour blindness hides it."""
    steps = [luminance(colour) for colour in palette(8, ends)]
    assert steps == sorted(steps, reverse=True)
    assert min(-np.diff(steps)) > 0.005


def test_colours_stand_out_from_the_paper():
    assert max(luminance(colour) for colour in palette(6)) < 0.6
    assert min(luminance(colour) for colour in palette(6, DARK_RANGE)) > 0.1
    assert len(palette(1)) == 1


def test_labels_do_not_cover_each_other():
    figure = Figure()
    axes = figure.subplots()
    random = np.random.default_rng(0)
    points = [tuple(point) for point in random.random((8, 2)).tolist()]
    axes.plot(*zip(*points, strict=True), "o")
    label_points(axes, points, [f"{index}×{index} shared" for index in range(8)])
    boxes = [note.get_window_extent() for note in axes.texts]
    assert len(boxes) == 8
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_labels_of_the_coordinate_check_are_numbers():
    """Matplotlib's labels of logarithmic axes are formulas, which the style does not typeset."""
    rows = [
        {"parametrization": "completep", "axis": "width", "place": place, "step": 0,
         "sizes": {"logits": 0.01 * place}}
        for place in (64, 128, 1024)
    ]  # fmt: skip
    [axes] = coordinate_figure(rows).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert {"1", "10"} <= set(labels) and not [label for label in labels if "$" in label]
