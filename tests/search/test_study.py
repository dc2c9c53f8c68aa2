"""Proposals, records and storage of a study; and studies that are opened again."""

import multiprocessing
import os
import signal
import time

import optuna
import pytest
from small_space import SPACE, feasibility

from mobilellm.run_folder import write_summary
from mobilellm.search.space import parse_space
from mobilellm.search.space.feasibility import settings_key
from mobilellm.search.study.objectives import front, parse_objectives
from mobilellm.search.study.proposals import Proposer
from mobilellm.search.study.records import StudyFiles, TrialRecord
from mobilellm.search.study.settings import parse_settings
from mobilellm.search.study.storage import Storage, StudyTrial
from mobilellm.search.study.study import Study, check_same_study


def loss(settings):
    """Lowest for four blocks, and falling with the width."""
    return 3 + abs(settings["model.num_blocks"] - 4) + 10 / settings["model.hidden_size"]


def trials_of(settings, number, before=(), *, feasible=None):
    """The first trials of a search: every fourth is pruned, every seventh fails."""
    checks = feasible or feasibility(max_body=60_000)
    proposer, trials, tried = Proposer(checks, settings), list(before), set()
    tried = {settings_key(trial.attributes["settings"]) for trial in trials}
    while len(trials) < number:
        place = len(trials)
        found = proposer.propose(place, trials, tried)
        if found is None:
            break
        tried.add(settings_key(found.candidate.settings))
        values = (loss(found.candidate.settings), found.candidate.costs["body"])
        status = "pruned" if place % 4 == 3 else "failed" if place % 7 == 6 else "finished"
        trials.append(StudyTrial(
            number=place, status=status, point=found.candidate.point,
            domains=checks.space.domains(found.candidate.point),
            values=None if status == "failed" else values[: len(settings.objectives)],
            losses={100: values[0]}, sampler_state=found.sampler_state,
            attributes={"settings": found.candidate.settings},
        ))  # fmt: skip
    return trials


@pytest.mark.parametrize("objectives", [["val_loss"], ["val_loss", "body"]])
@pytest.mark.parametrize(
    "sampler",
    ["tpe", "nsgaii", pytest.param("gp", marks=pytest.mark.slow), "random", "grid"],
)
def test_proposals_are_new_and_feasible_and_do_not_depend_on_when_they_are_made(
    sampler, objectives
):
    settings = parse_settings({"sampler": sampler, "objectives": objectives, "n_trials": 9})
    checks = feasibility(max_body=60_000)
    trials = trials_of(settings, 7 if sampler in ("gp", "tpe") else 9, feasible=checks)
    shapes = [trial.attributes["settings"] for trial in trials]
    assert len({settings_key(one) for one in shapes}) == len(shapes)
    possible = {settings_key(one.settings) for one in checks.candidates()}
    assert {settings_key(one) for one in shapes} <= possible
    continued = trials_of(settings, len(trials), trials[:5], feasible=checks)
    assert [one.point for one in continued] == [one.point for one in trials]


def test_a_small_space_is_tried_once_and_in_full():
    space = {"model": {"num_blocks": [1, 2], "hidden_size": [16, 32, 48]}}
    checks = feasibility(space, max_body=70_000)
    for sampler in ("tpe", "grid", "nsgaii"):
        settings = parse_settings({"sampler": sampler, "n_trials": 9})
        trials = trials_of(settings, 9, feasible=checks)
        assert len(trials) == len(list(checks.candidates())) == 6


def test_results_guide_the_sampler():
    space = {"model": {"num_blocks": {"low": 1, "high": 32},
                       "hidden_size": {"low": 16, "high": 160, "step": 16}}}  # fmt: skip
    checks = feasibility(space, max_body=1e9)

    def late_losses(sampler):
        settings = parse_settings({"sampler": sampler, "n_trials": 30})
        found = trials_of(settings, 30, feasible=checks)
        return sorted(loss(one.attributes["settings"]) for one in found[10:])[:8]

    assert sum(late_losses("tpe")) < sum(late_losses("random")) - 4


def test_running_trials_count_as_tried_by_others():
    settings = parse_settings({"n_trials": 9, "sampler": "nsgaii"})
    trials = trials_of(settings, 5)
    running = [*trials[:4], StudyTrial(number=4, status="running", point=trials[4].point,
                                       domains=trials[4].domains)]  # fmt: skip
    checks = feasibility(max_body=60_000)
    found = Proposer(checks, settings).propose(5, running, set())
    assert found is not None


def test_the_storage_gets_every_ended_trial_once(tmp_path):
    for objectives, url in ((["val_loss"], None), (["val_loss", "body"], "sqlite")):
        folder = tmp_path / str(len(objectives))
        given = None if url is None else f"sqlite:///{tmp_path}/study.db"
        settings = parse_settings({"objectives": objectives, "n_trials": 9, "storage": given,
                                   "sampler": "random"})  # fmt: skip
        trials = trials_of(settings, 8)
        trials[5] = StudyTrial(number=5, status="running", point=trials[5].point,
                               domains=trials[5].domains)  # fmt: skip
        storage = Storage(settings, folder, "mine")
        storage.add(trials[:4])
        storage.add(trials)
        if given is None:
            backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
            given = optuna.storages.JournalStorage(backend)
        kept = optuna.load_study(study_name="mine", storage=given).trials
        assert [one.user_attrs["trial"] for one in kept] == [0, 1, 2, 3, 4, 6, 7]
        names = ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED", "COMPLETE", "FAIL", "PRUNED"]
        assert [one.state.name for one in kept] == names
        assert kept[0].values == list(trials[0].values)
        assert kept[3].params == trials[3].point


def test_a_storage_that_cannot_be_opened_is_named(tmp_path):
    settings = parse_settings({"storage": "nosuch:///study"})
    with pytest.raises(ValueError, match=r"search\.storage=nosuch:///study cannot be opened"):
        Storage(settings, tmp_path, "mine").add([])


def record(number, run="run"):
    return TrialRecord(number=number, point={"a": 1}, settings={"a": 1}, overrides=("a=1",),
                       run=f"{run}-{number}", costs={"body": 5.0}, origin="tpe")  # fmt: skip


def test_records_are_written_once(tmp_path):
    files = StudyFiles(tmp_path)
    for number in (0, 1, 12):
        files.write_record(record(number))
    assert files.records() == [record(0), record(1), record(12)]
    with pytest.raises(FileExistsError, match="is never overwritten"):
        files.write_record(record(1, run="other"))


def _hold(folder, ready):
    claim = StudyFiles(folder).claim(record(3))
    ready.set()
    time.sleep(600 if claim else 0)


def test_a_claim_ends_with_its_process(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(30)
    files = StudyFiles(tmp_path)
    assert files.claim(record(3)) is None
    other = files.claim(record(4))
    assert other is not None
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join()
    mine = files.claim(record(3))
    assert mine is not None
    mine.release()
    assert files.claim(record(3)) is not None


def test_kills_are_counted(tmp_path):
    files = StudyFiles(tmp_path)
    assert files.kills(record(1)) == 0
    assert [files.add_kill(record(1)), files.add_kill(record(1))] == [1, 2]
    assert (files.kills(record(1)), files.kills(record(2))) == (2, 0)


def study(tmp_path, **settings):
    checks, parsed = feasibility(max_body=60_000), parse_settings(settings)
    files = StudyFiles(tmp_path)
    return Study(files, parsed, checks, Storage(parsed, files.folder, "mine"))


def with_summary(one, summary):
    given = TrialRecord(
        number=len(one.files.records()), point={}, settings={}, overrides=(), costs={"body": 7.0},
        run=f"run-{len(one.files.records())}",
    )  # fmt: skip
    one.files.write_record(given)
    one.files.run_folder(given).mkdir()
    write_summary(one.files.run_folder(given), summary)
    return one.trial(given)


def test_results_are_read_from_the_runs(tmp_path):
    found = study(tmp_path, objectives=["val_loss", "body"])
    assert with_summary(found, {"status": "finished", "val_loss": 3.5}).values == (3.5, 7.0)
    assert with_summary(found, {"status": "pruned", "val_loss": 4.5}).values == (4.5, 7.0)
    assert with_summary(found, {"status": "failed", "diverged": True}).values is None
    assert with_summary(found, {"status": "running", "val_loss": 4.0}).values is None
    assert [one.status for one in found.trials()] == ["finished", "pruned", "failed", "running"]


def test_a_metric_that_no_trial_reports_is_named(tmp_path):
    found = study(tmp_path, objectives=["val_los"])
    message = r"search.objectives has val_los, which no trial reports: .*has tokens, val_loss"
    with pytest.raises(ValueError, match=message):
        with_summary(found, {"status": "finished", "val_loss": 3.5, "tokens": 9})


def test_a_search_whose_first_trials_cannot_run_ends(tmp_path):
    found = study(tmp_path / "a")
    failed = {"status": "failed", "error": "no data"}
    for place in range(3):
        found.check_first_failures()
        with_summary(found, failed | ({"diverged": True} if place == 2 else {}))
    found.check_first_failures()
    other = study(tmp_path / "b")
    for _ in range(3):
        with_summary(other, failed)
    with pytest.raises(ValueError, match="the first 3 trials failed: no data; correct it"):
        other.check_first_failures()


def test_a_study_of_another_space_is_refused(tmp_path):
    description = {"space": parse_space(SPACE).to_dict(), "objectives": ["val_loss"],
                   "constraints": {"max_body": 5}, "run": {"seed": 0}, "pruning": None}  # fmt: skip
    found = study(tmp_path)
    found.open(description)
    found.open(description | {"pruning": {"rule": {}}})
    other = {**description["space"], "model.num_blocks": {"choices": [1, 2]}}
    with pytest.raises(ValueError, match=(
        r"started with other settings: space model.num_blocks: {'choices': \[1, 2, 4\]} and now "
        r"{'choices': \[1, 2\]}; run seed: 0 and now 1; use the same ones, or give another"
    )):  # fmt: skip
        found.open(description | {"space": other, "run": {"seed": 1}})
    with pytest.raises(ValueError, match=r"objectives: \['val_loss'\] and now \['body'\]"):
        check_same_study(description, description | {"objectives": ["body"]}, "folder")


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_that_of_all_pairs(seed):
    import random

    generator = random.Random(seed)
    values = {n: (generator.randint(0, 9), generator.randint(0, 9)) for n in range(25)}
    kept = {
        key for key, (a, b) in values.items()
        if not any((x <= a and y <= b) and (x, y) != (a, b) for x, y in values.values())
    }  # fmt: skip
    found = front(values)
    assert set(found) == kept
    assert [values[key][1] for key in found] == sorted(values[key][1] for key in found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_trials": 0}, "search.n_trials=0 must be a whole number of at least 1"),
        ({"sampler": "bayes"}, "search.sampler='bayes' is not known; use one of"),
        ({"objectives": []}, "search.objectives is empty"),
        ({"objectives": ["val_loss", "val_loss"]}, "has a name twice"),
        ({"objectives": ["body", "bytes"]}, "are all known from the shape"),
        ({"constraints": {"max_bits": 3}}, "search.constraints setting='max_bits' is not known"),
        ({"constraints": {"max_body": -3}}, "search.constraints.max_body=-3 must be above 0"),
        ({"pruning": {"rule": "best"}}, "search.pruning.rule='best' is not known"),
        (
            {"pruning": {"rule": "halving"}, "objectives": ["wall_seconds"]},
            "needs a loss that is measured while a trial trains; add one of val_loss",
        ),
        ({"final_seeds": [1, 1]}, "has a seed twice"),
        ({"finalists": 2, "final_seeds": []}, "search.final_seeds is empty"),
        ({"n_trails": 3}, "search setting='n_trails' is not known; use one of n_trials"),
    ],
)
def test_settings_that_are_not_valid_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        parse_settings(settings)


def test_a_maximised_objective_has_a_minus_sign():
    first, second = parse_objectives(["-val_accuracy", "flops_per_token.forward"])
    assert (first.name, first.is_maximized, first.lower_is_better(0.5)) == (
        "val_accuracy", True, -0.5,
    )  # fmt: skip
    assert second.value({}, {"flops_per_token": {"forward": 12}}) == 12.0
    assert second.value({}, {"flops_per_token": 3}) is None
