"""Compares runs, and writes the report."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mobilellm.files import write_text_atomically
from mobilellm.paths import check_unused
from mobilellm.report.analysis import Analysis, analyse, with_latencies
from mobilellm.report.comparison import Comparison
from mobilellm.report.compressed import read_compressed
from mobilellm.report.device_latency import read_latencies
from mobilellm.report.drawing import palette, plot_style, write_figure
from mobilellm.report.latency import Latencies, LatencyMeasurement
from mobilellm.report.page import page_text
from mobilellm.report.plots import PLOTS, Plot
from mobilellm.report.records import csv_text, json_text, pairs_csv_text
from mobilellm.report.runs import given_folder, read_runs

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
    latency: bool | None = None,
    latency_from: Path | str | None = None,
    latency_setting: str | None = None,
) -> Comparison:
    """Compare the finished runs and the compressed models at or below `paths`; write the report.

    Writes comparison.json, comparison.csv, pairs.csv, latency.json, one PNG per plot, and a
    self-contained index.html.

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
        latency: whether to measure the decode latency of each shape on this machine, which the
            verdicts at equal latency need. Default: if depths differ, use what an earlier report in
            the folder measured, or measure up to eight small shapes. True: measure anew, longer.
        latency_from: results of another device, which are used instead; see
            `mobilellm device-profile --bundle`.
        latency_setting: engine, type and threads in these results, such as `llamacpp/q8_0/1`; not
            needed if there is only one.

    Returns:
        The results, which `print` and notebooks can show.

    Raises:
        FileNotFoundError: a path does not exist.
        ValueError: no path is given, one is a file that is not a run's own, no finished run was
            found, `out` contains other files, the baseline is not one of the configurations, there
            are more seeds than `max_seeds`, or `latency_from` has no times of these models.
    """
    _check_latency(latency, latency_from, latency_setting)
    if not paths:
        raise ValueError("no folder given; give run or sweep folders, e.g. outputs/depth_vs_width")
    sources = [given_folder(path) for path in paths]
    folder = Path(out) if out is not None else sources[0] / FOLDER
    check_unused("out", folder, own=JSON)
    models, unreadable = read_compressed(sources)
    runs = read_runs(sources, may_be_empty=bool(models))
    found: Latencies | None = None
    if latency_from is not None:
        found = read_latencies(Path(latency_from), runs.finished, latency_setting)
    # Measured in a process of its own while the runs are compared, since loading torch takes long.
    wanted = latency if latency_from is None else False
    measurement = LatencyMeasurement(runs.finished, folder, wanted=wanted)
    analysis = analyse(
        replace(runs, left_out=(*runs.left_out, *unreadable)),
        models=models, sources=sources, folder=folder, title=title, baseline=baseline,
        margin=margin, max_seeds=max_seeds,
    )  # fmt: skip
    drawings = {plot: svg for plot, svg in write_plots(analysis, needs_latency=False)}
    latencies = measurement.result() if found is None else found
    analysis = with_latencies(analysis, latencies)
    write_text_atomically(folder / JSON, json_text(analysis))
    write_text_atomically(folder / CSV, csv_text(analysis))
    write_text_atomically(folder / PAIRS, pairs_csv_text(analysis))
    drawings |= dict(write_plots(analysis, needs_latency=True))
    ordered = [(plot, drawings[plot]) for plot in PLOTS if plot in drawings]
    write_text_atomically(analysis.page, page_text(analysis, ordered))
    return Comparison(**vars(analysis))


def _check_latency(
    latency: bool | None, latency_from: Path | str | None, latency_setting: str | None
) -> None:
    """Refuse settings of the latency that contradict each other, or have no effect."""
    if latency_from is None and latency_setting is not None:
        raise ValueError("--latency-setting has no effect without --latency-from; give both")
    if latency_from is not None and latency is not None:
        option = "--latency" if latency else "--no-latency"
        raise ValueError(f"--latency-from and {option} exclude each other; give one of them")


def write_plots(analysis: Analysis, *, needs_latency: bool) -> list[tuple[Plot, str]]:
    """Write each plot for which there are data as a PNG file; return these plots with their SVG.

    Args:
        analysis: content of the report.
        needs_latency: whether to draw the plots of measured latencies, or all others.
    """
    analysis.folder.mkdir(parents=True, exist_ok=True)
    drawings = []
    colours = palette(len(analysis.groups))
    with plot_style():
        for plot in PLOTS:
            if plot.needs_latency != needs_latency:
                continue
            path = analysis.folder / f"{plot.name}.png"
            figure = plot.draw(analysis) if analysis.groups else None
            if figure is None:
                path.unlink(missing_ok=True)
                continue
            drawings.append((plot, write_figure(figure, path, colours)))
    return drawings
