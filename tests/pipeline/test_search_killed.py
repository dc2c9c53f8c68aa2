"""A search whose trials and controllers are killed loses no result and repeats none."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import psutil
import pytest

ROOT = Path(__file__).parents[2]
ENDED = ("finished", "pruned", "failed")
TRIALS = 20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def settings(corpus, prepared_dir, folder):
    return [
        "experiment_name=killed", f"output_dir={folder}", f"prepared_dir={prepared_dir}",
        "data=text", f"data.train={corpus}", "data.held_out=0.2", "model.vocab_size=512",
        "search_space.model.num_blocks=[1,2,3]", "search_space.model.hidden_size.low=16",
        "search_space.model.hidden_size.high=160", "search.constraints.max_body=500000",
        f"search.n_trials={TRIALS}", "search.attempts=50", "search.sampler=random",
        "search.pruning.rule=halving", "search.pruning.startup_trials=2",
        "sequence_length=32", "tokens_per_step=64", "max_steps=null", "max_tokens=2560",
        "validation_tokens=128", "optimizer.learning_rate=1e-2", "trainer=cpu",
        "callbacks.run_summary=null", "callbacks.progress=null", "log_interval_steps=1",
        "callbacks.checkpoint.every_steps=4", "hydra.launcher.n_jobs=2",
        "hydra.launcher.threads_per_job=1",
    ]  # fmt: skip


def start(*arguments):
    return subprocess.Popen([sys.executable, "scripts/search.py", *arguments], cwd=ROOT)


def trial_processes(controller):
    """The processes of its trials: grandchildren, which the fork server has started."""
    try:
        servers = psutil.Process(controller.pid).children()
        return [trial for server in servers for trial in server.children()]
    except psutil.NoSuchProcess:
        return []


def summaries(folder):
    return {path.parent.name: path for path in (folder / "killed").glob("*/summary.json")}


class Watcher:
    """Remembers when each trial ended, and kills as it is told."""

    def __init__(self, folder):
        self.folder = folder
        self.ended: dict[str, int] = {}

    def look(self):
        """The number of trials that have ended; those that ended before have not changed."""
        for name, path in summaries(self.folder).items():
            status = json.loads(path.read_text(encoding="utf-8")).get("status")
            changed = path.stat().st_mtime_ns
            assert name not in self.ended or self.ended[name] == changed, f"{name} ran twice"
            if status in ENDED:
                self.ended[name] = changed
        return len(self.ended)


def check(folder, watcher):
    """All trials have ended, each once, with a whole record of its steps."""
    assert watcher.look() == TRIALS
    study = folder / "killed/search"
    records = [json.loads(path.read_text("utf-8")) for path in sorted(study.glob("trials/*.json"))]
    assert [record["number"] for record in records] == list(range(TRIALS))
    runs = [record["run"] for record in records]
    assert len(set(runs)) == TRIALS
    assert set(runs) == set(summaries(folder))
    values = {}
    for record in records:
        run = folder / "killed" / record["run"]
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        assert summary["status"] in ("finished", "pruned")
        with (run / "metrics.csv").open(encoding="utf-8") as file:
            steps = [int(row["step"]) for row in csv.DictReader(file)]
        assert steps == list(range(summary["steps"] + 1))
        assert (summary["steps"] == 40) == (summary["status"] == "finished")
        decisions = run / "pruning.json"
        ends = [one["is_pruned"] for one in json.loads(decisions.read_text("utf-8"))]
        assert ends.count(True) == (summary["status"] == "pruned")
        values[record["number"]] = summary["val_loss"]
    backend = optuna.storages.journal.JournalFileBackend(str(study / "journal.log"))
    storage = optuna.storages.JournalStorage(backend)
    [name] = [one.study_name for one in optuna.get_all_study_summaries(storage)]
    kept = optuna.load_study(study_name=name, storage=storage).trials
    assert {t.user_attrs["trial"] for t in kept} <= set(values)
    assert all(t.value == values[t.user_attrs["trial"]] for t in kept if t.value is not None)
    assert len(kept) == len({t.user_attrs["trial"] for t in kept}) == TRIALS


def test_a_third_of_the_trials_and_the_controller_twice(corpus, prepared_dir, tmp_path):
    given, generator = settings(corpus, prepared_dir, tmp_path), random.Random(0)
    watcher, kills, controllers = Watcher(tmp_path), 0, [6, 13]
    controller = start(*given)
    deadline = time.monotonic() + 1500
    while controller.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        number = watcher.look()
        if controllers and number >= controllers[0]:
            controllers.pop(0)
            controller.kill()
            controller.wait()
            controller = start(*given)
        running = trial_processes(controller)
        if kills < 6 and number >= 2 * kills + 1 and running:
            time.sleep(generator.uniform(0.1, 1.0))
            try:
                os.kill(generator.choice(running).pid, signal.SIGKILL)
                kills += 1
            except ProcessLookupError:
                continue
    assert controller.returncode == 0
    assert (kills, controllers) == (6, [])
    check(tmp_path, watcher)


def test_two_controllers_share_the_trials_of_a_study(corpus, prepared_dir, tmp_path):
    given = [*settings(corpus, prepared_dir, tmp_path), "search.pruning.rule=median"]
    watcher = Watcher(tmp_path)
    controllers = [start(*given, f"search.seed={seed}") for seed in (0, 1)]
    deadline, is_killed = time.monotonic() + 1500, False
    while any(one.poll() is None for one in controllers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        if watcher.look() >= 8 and not is_killed:
            controllers[0].kill()
            is_killed = True
    assert controllers[1].returncode == 0
    check(tmp_path, watcher)
