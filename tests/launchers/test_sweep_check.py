"""All trials of a sweep are composed and checked before the first."""

import itertools

import pytest
from omegaconf import OmegaConf

from mobilellm.launchers.configuration import config_loader
from mobilellm.launchers.gpus import visible_gpus
from mobilellm.launchers.sweep_check import check_sweep, device_count, without_hydra


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
    with pytest.raises(ValueError, match=r"^trial seed=1 .*: sequence_length: Interpolation key"):
        check(app, "seed=1,2", "sequence_length=${model.depth}")


def test_a_defect_of_the_check_is_not_a_users_error(app):
    def broken(_):
        raise KeyError("defect")

    with pytest.raises(KeyError):
        check(app, "seed=1,2", checker=broken)


@pytest.mark.parametrize(
    ("devices", "accelerator", "leased", "count"),
    [
        (1, "cpu", False, 1), (4, "cpu", True, 4), ("2", "cpu", False, 2),
        ("auto", "cpu", False, 1), (-1, "gpu", False, 2), ("auto", "auto", False, 2),
        ("auto", "auto", True, 1), (OmegaConf.create([0, 1, 3]), "gpu", False, 3),
        ([0], "gpu", False, 1), (None, "auto", False, 1),
    ],
)  # fmt: skip
def test_device_count(monkeypatch, devices, accelerator, leased, count):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert device_count(devices, accelerator, leased=leased) == count


@pytest.mark.parametrize(("shown", "gpus"), [("", []), ("-1", []), ("1,GPU-ab", ["1", "GPU-ab"])])
def test_hidden_gpus_do_not_count(monkeypatch, shown, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert visible_gpus() == gpus
