"""Compares runs, and writes the report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mobilellm.files import write_text_atomically
from mobilellm.report.analysis import Analysis, analyse
from mobilellm.report.comparison import Comparison
from mobilellm.report.compressed import read_compressed
from mobilellm.report.drawing import palette, plot_style, svg_text
from mobilellm.report.page import page_text
from mobilellm.report.plots import PLOTS, Plot
from mobilellm.report.records import csv_text, json_text, pairs_csv_text
from mobilellm.report.runs import read_runs

JSON = "comparison.json"
CSV = "comparison.csv"
PAIRS = "pairs.csv"
FOLDER = "comparison"


def compare(
    paths: Sequence[Path | str],
    out: Path | str | None = None,
    *,
    title: str | None = None,
    baseline: str | None = None,
    margin: float | None = None,
    max_seeds: int | None = None,
) -> Comparison:
    """Compare the finished runs and the compressed models at or below `paths`; write the report.

    Writes comparison.json, comparison.csv, pairs.csv, one PNG per plot, and a self-contained
    index.html.

    Args:
        paths: run or sweep folders, and folders that `mobilellm compress` wrote.
        out: folder of the report; default `<first path>/comparison`. An earlier report in it is
            overwritten; other files are never overwritten.
        title: heading of the page; default: the name of the experiment.
        baseline: configuration with which all others are compared, given by its label or by the
            name of a run's folder. Default: every pair is compared; if there are more than eight
            configurations, each is compared with the best one.
        margin: a difference that does not matter, in the unit of the loss; pairs that differ by
            less are `equivalent`.
        max_seeds: the limit, if seeds are added until a verdict; the stated error then holds over
            all looks. Choose it before the first look.

    Returns:
        The results, which `print` and notebooks can show.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: no path is given, no finished run was found, `out` contains other files, the
            baseline is not one of the configurations, or there are more seeds than `max_seeds`.
    """
    if not paths:
        raise ValueError("no folder given; give run or sweep folders, e.g. outputs/depth_vs_width")
    sources = [Path(path) for path in paths]
    folder = Path(out) if out is not None else sources[0] / FOLDER
    _check_may_write(folder)
    models, unreadable = read_compressed([path for path in sources if path.exists()])
    runs = read_runs(sources, may_be_empty=bool(models))
    analysis = analyse(
        replace(runs, left_out=(*runs.left_out, *unreadable)),
        models=models, sources=sources, folder=folder, title=title, baseline=baseline,
        margin=margin, max_seeds=max_seeds,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(folder / JSON, json_text(analysis))
    write_text_atomically(folder / CSV, csv_text(analysis))
    write_text_atomically(folder / PAIRS, pairs_csv_text(analysis))
    drawings = write_plots(analysis)
    write_text_atomically(analysis.page, page_text(analysis, drawings))
    return Comparison(**vars(analysis))


def write_plots(analysis: Analysis) -> list[tuple[Plot, str]]:
    """Write each plot for which there are data as a PNG file; return these plots with their SVG."""
    drawings = []
    colours = palette(len(analysis.groups))
    with plot_style():
        for plot in PLOTS:
            path = analysis.folder / f"{plot.name}.png"
            figure = plot.draw(analysis) if analysis.groups else None
            if figure is None:
                path.unlink(missing_ok=True)
                continue
            figure.savefig(path, dpi=150)
            drawings.append((plot, svg_text(figure, plot.name, colours)))
    return drawings


def _check_may_write(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out={folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / JSON).exists():
        raise ValueError(
            f"out={folder} contains other files and is not overwritten; give a new folder, or one "
            f"that an earlier comparison wrote (with {JSON} in it)"
        )
