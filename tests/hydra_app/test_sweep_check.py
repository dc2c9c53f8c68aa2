"""All trials of a sweep are composed and checked before the first."""

import itertools

import pytest

from mobilellm.hydra_app.configuration import config_loader
from mobilellm.hydra_app.sweep_check import check_sweep
from mobilellm.hydra_app.sweep_launcher import SweepLauncher
from mobilellm.hydra_app.trial import as_typed, common_keys, without_hydra
from mobilellm.launchers.local.gpus import visible_gpus


def check(app, *overrides, checker=None):
    with config_loader(app.conf) as loader:
        return check_sweep(loader, "train", list(overrides), checker)


def test_every_combination_is_composed_once(app):
    seen = []
    trials = check(app, "model=small,large", "seed=range(0,3)", checker=seen.append)
    assert [(c.model.hidden_size, c.seed) for c in seen] == list(
        itertools.product((8, 64), range(3))
    )
    assert [t.name for t in trials][:2] == ["model=small seed=0", "model=small seed=1"]
    assert [t.config.hydra.job.num for t in trials] == list(range(6))
    assert all("hydra" not in config for config in seen)


def test_the_sweep_may_stand_in_an_experiment_and_the_command_line_wins(app):
    trials = check(app, "experiment=sweep", "seed=5")
    assert [without_hydra(t.config).seed for t in trials] == [5, 5]
    assert [t.config.model.hidden_size for t in trials] == [8, 64]


def test_the_task_can_read_its_overrides_while_it_is_checked(app):
    from hydra.core.hydra_config import HydraConfig

    seen = []
    check(app, "seed=1,2", checker=lambda _: seen.append(list(HydraConfig.get().overrides.task)))
    assert seen == [["seed=1"], ["seed=2"]]


def test_equal_values_under_another_name_are_the_same_run(app):
    message = r"trials 'model.hidden_size=64' and 'model.hidden_size=64' are the same run"
    with pytest.raises(ValueError, match=message):
        check(app, "model.hidden_size=64,8,64")
    with pytest.raises(ValueError, match=r"are the same run \(folder\); remove one of the equal"):
        check(app, "seed=1,2", checker=lambda _: "folder")


def test_an_interpolation_that_leads_nowhere_is_found(app):
    with pytest.raises(ValueError, match=r"^trial seed=1: sequence_length: Interpolation key"):
        check(app, "seed=1,2", "sequence_length=${model.depth}")


def test_a_defect_of_the_check_is_not_a_users_error(app):
    def broken(_):
        raise KeyError("defect")

    with pytest.raises(KeyError):
        check(app, "seed=1,2", checker=broken)


def test_a_trial_has_one_gpu_of_the_local_launcher_and_any_number_of_processes(app, monkeypatch):
    local, two = "hydra/launcher=local", "trainer.devices=2"
    check(app, "seed=1,2", local, two, "trainer.accelerator=cpu")
    check(app, "seed=1,2", two, "trainer.accelerator=cuda")
    check(app, "seed=1,2", local, two, "trainer.accelerator=cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    with pytest.raises(ValueError, match=r"trainer\.devices=2 must be 1 with hydra/launcher=local"):
        check(app, "seed=1,2", local, two, "trainer.accelerator=cuda")


def test_ranks_start_no_sweep_each(app, monkeypatch):
    started = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
               "MASTER_ADDR": "here", "MASTER_PORT": "1"}  # fmt: skip
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    check(app, "seed=1,2", "hydra/launcher=basic")
    message = r"torchrun started 2 processes, each of which would run the whole sweep with .*=local"
    with pytest.raises(ValueError, match=message):
        check(app, "seed=1,2", "hydra/launcher=local")


@pytest.mark.parametrize(("shown", "gpus"), [("", []), ("-1", []), ("1,GPU-ab", ["1", "GPU-ab"])])
def test_hidden_gpus_do_not_count(monkeypatch, shown, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert visible_gpus() == gpus


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["seconds=2e4,1e5", "seed=3"], ["seconds=2e4", "seconds=1e5"]),
        (["seed=7", "seconds=1e3"], ["seed=7 seconds=1e3"]),
        (["seed=range(0,2)", "seconds=1e3"], ["seed=0", "seed=1"]),
        (["+name='a,b',\"c\""], ["+name='a,b'", '+name="c"']),
        (["+files=[a,b],[c]"], ["+files=[a,b]", "+files=[c]"]),
        (["seed=choice(1,2)"], ["seed=1", "seed=2"]),
        (["+files=[" + ",".join(f"corpus/{n}.txt" for n in range(9)) + "],x"],
         ["+files=9 values", "+files=x"]),
    ],
)  # fmt: skip
def test_trials_are_named_by_what_varies_as_it_was_typed(app, overrides, names):
    assert [trial.name for trial in check(app, *overrides)] == names


def test_a_trial_knows_which_of_its_overrides_all_have(app):
    [trial, _] = check(app, "seconds=1e3", "seed=1,2", "model=large")
    assert common_keys(trial.config.hydra) == {"seconds", "model"}
    assert as_typed(trial.config.hydra.overrides.task) == ["seconds=1e3", "seed=1", "model=large"]
    assert trial.overrides == ("seconds=1000.0", "seed=1", "model=large")


def test_a_launcher_that_cannot_be_imported_is_named(app):
    target = "hydra.launcher._target_=nowhere.Launcher"
    with pytest.raises(ValueError, match=rf"^{target} cannot be imported"):
        check(app, "seed=1,2", "hydra/launcher=local", target)


def test_a_launcher_of_the_users_own_is_asked_before_the_sweep(app, monkeypatch):
    calls = []

    class OwnLauncher(SweepLauncher):
        choice = "own"

        @classmethod
        def prepare(cls, settings):
            calls.append(f"prepare {settings.n_jobs}")

        @classmethod
        def check_trial(cls, config):
            if config.seed == 2:
                raise ValueError("seed=2 is refused by the launcher; use another")

        @classmethod
        def abandon(cls):
            calls.append("abandon")

        def launch(self, job_overrides, initial_job_idx):
            raise NotImplementedError

    monkeypatch.setattr("app.OwnLauncher", OwnLauncher, raising=False)
    own = ("hydra/launcher=local", "hydra.launcher._target_=app.OwnLauncher")
    assert len(check(app, "seed=0,1", *own)) == 2
    assert calls == ["prepare 2"]
    with pytest.raises(ValueError, match=r"trial seed=2: seed=2 is refused by the launcher"):
        check(app, "seed=1,2", *own)
    assert calls == ["prepare 2", "prepare 2", "abandon"]
