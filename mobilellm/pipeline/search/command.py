"""Runs a search from its configuration to its report."""

import os
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig
from rich import box
from rich.table import Table

from mobilellm.cli.console import make_console
from mobilellm.command_names import command_for
from mobilellm.hydra_app.configuration import plain_config
from mobilellm.models import ModelConfig
from mobilellm.paths import user_path
from mobilellm.pipeline.search.finals import Finalists
from mobilellm.pipeline.search.runners import make_runner
from mobilellm.pipeline.search.setup import SearchSetup, read_search, shape_builder
from mobilellm.pipeline.search.trial_configs import TrialConfigs
from mobilellm.pipeline.search.trial_feed import TrialFeed
from mobilellm.report.search.findings import findings
from mobilellm.report.search.page import write_model_file, write_search_page
from mobilellm.report.search.results import SearchResults, TrialResult, read_results
from mobilellm.search.latency_check import check_latencies
from mobilellm.search.space.constraints import COSTS
from mobilellm.search.space.feasibility import Survey
from mobilellm.search.study.records import StudyFiles
from mobilellm.search.study.storage import Storage
from mobilellm.search.study.study import Study


def search(cfg: DictConfig) -> None:
    """Search for shapes, or count the feasible points of the space.

    Raises:
        ValueError, TypeError, FileNotFoundError: the configuration is not valid, or the study was
            started with another space.
        Stopped: a signal ended the search, after the running trials have saved.
    """
    setup = read_search(cfg)
    survey = setup.feasibility.survey()
    if setup.settings.dry_run:
        show_survey(survey, setup)
        survey.check()
        return
    survey.check()
    study = open_study(setup)
    run_trials(setup, study)
    report(setup, study)


def open_study(setup: SearchSetup) -> Study:
    """Create the study, or open the one that was started in its folder.

    Raises:
        ValueError: it was started with other settings, or the storage cannot be opened.
    """
    files = StudyFiles(setup.root)
    storage = Storage(setup.settings, files.folder, str(setup.root.resolve()))
    study = Study(files, setup.settings, setup.feasibility, storage)
    study.open(setup.description)
    return study


def run_trials(setup: SearchSetup, study: Study) -> None:
    """Run trials until the study has as many as it should.

    Raises:
        Stopped: a signal ended the search, after the running trials have saved.
    """
    configs = TrialConfigs.of_command(is_pruned=setup.settings.pruning_rule is not None)
    make_runner(setup.root).run_feed(TrialFeed(study, configs))
    study.store()


def report(setup: SearchSetup, study: Study) -> None:
    """Train the finalists, if there are any, and write the page and the winner's model file.

    Raises:
        Stopped: a signal ended the training of the finalists.
    """
    settings, name = setup.settings, str(setup.run.experiment_name)
    max_tokens = setup.run.max_tokens
    budget = None if max_tokens is None else float(max_tokens)
    others = [user_path(path) for path in settings.compare_with]
    results = read_results(study, name, budget=budget, others=others)
    notes, finals = [], Finalists(setup, TrialConfigs.of_command(is_pruned=False))
    if settings.finalists and results.finished:
        trained = finals.train(results)
        results = replace(results, finalists=tuple(trained))
        notes.append(
            f"Whether the finalists differ: {command_for('compare')} {shown_path(finals.folder)}"
        )
    winner = _winner(results)
    if winner is not None:
        model = shape_builder(plain_config(setup.run.model))(winner.record.settings)
        folder = setup.root / "search" / "conf"
        source = f"trial {winner.record.number} of the search {name}"
        write_model_file(folder, "winner", model, source)
        notes.append(
            f"Trial {winner.record.number} as a model file: {command_for('train')} --config-dir "
            f"{shown_path(folder)} model=winner"
        )
        check = check_latencies(setup.feasibility.constraints, _chosen(winner, results, setup))
        if check is not None:
            results = replace(results, latency_check=check)
    page = write_search_page(results, setup.root / "search" / "report", notes=notes)
    console = make_console(100)
    for sentence in (*findings(results), *notes):
        console.print(sentence, markup=False, highlight=False)
    console.print(shown_path(page), markup=False, soft_wrap=True)


def _chosen(
    winner: TrialResult, results: SearchResults, setup: SearchSetup
) -> list[tuple[int, ModelConfig]]:
    """The winner, and the other trials of the front, with their shapes."""
    others = [one for one in results.front if one.record.number != winner.record.number]
    return [
        (one.record.number, setup.feasibility.build(one.record.settings))
        for one in (winner, *others)
    ]


def _winner(results: SearchResults) -> TrialResult | None:
    """The finalist with the lowest mean loss, or the trial with the lowest first objective."""
    if results.finalists:
        best = min(results.finalists, key=lambda one: one.mean).number
        return next(one for one in results.trials if one.record.number == best)
    return results.ranked[0] if results.finished else None


def shown_path(path: Path) -> str:
    """A path relative to the working directory."""
    return os.path.relpath(path)


def show_survey(survey: Survey, setup: SearchSetup) -> None:
    """Print how many points are feasible, and what excludes the others."""
    console = make_console(100)
    share = survey.feasible / survey.points
    console.print(f"{survey.feasible:,} of {survey.counted} are feasible ({100 * share:.3g} %)")
    if not survey.violated:
        return
    table = Table(box=box.SIMPLE_HEAD)
    for head in ("excluded by", "limit", "lowest", "points", "by this alone"):
        table.add_column(head, justify="left" if head == "excluded by" else "right")
    for reason in sorted(survey.violated, key=lambda name: -survey.violated[name]):
        limit = survey.limits.get(reason)
        lowest = survey.lowest.get(reason)
        table.add_row(
            COSTS[reason].unit if reason in COSTS else reason,
            "" if limit is None else f"{limit:,.6g}",
            "" if lowest is None else f"{lowest:,.6g}",
            f"{survey.violated[reason]:,}",
            f"{survey.alone.get(reason, 0):,}",
        )
    console.print(table)
    if survey.messages:
        message = max(survey.messages, key=lambda text: survey.messages[text])
        console.print(f"An illegal shape: {message}", markup=False)
