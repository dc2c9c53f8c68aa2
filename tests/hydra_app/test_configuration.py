"""Errors of composing and instantiating name the key and the remedy."""

from pathlib import Path

import pytest

from mobilellm.hydra_app.configuration import compose, config_folder, instantiate
from mobilellm.hydra_app.errors import describe_configuration_error


def composing(app, *overrides):
    return compose("train", list(overrides), config_dir=app.conf)


def test_composes_without_hydras_own_keys(app):
    config = composing(app, "model=large", "seed=3")
    assert (config.model.hidden_size, config.seed, config.sequence_length) == (64, 3, 16)
    assert "hydra" not in config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=lrge", r"^model=lrge is not known; use one of large, small$"),
        ("data=wiki", r"^data=wiki is not known; use one of .*text"),
        ("mdoel=small", r"^mdoel is not known; nearest: model(?!.*\+)"),
        ("lr=3e-3", r"^lr is not known; here it is optimizer.learning_rate$"),
        ("model.d_model=3", r"^model.d_model is not known; here it is model.hidden_size$"),
        ("sed=3", r"^sed is not known; nearest: seed"),
        ("modle.hidden_size=3", r"^modle.hidden_size is not known; nearest: model.hidden_size"),
        ("model.hiden_size=3", r"^model.hiden_size is not known; model has hidden_size, "),
        ("model.head_dim=2", r"^model.head_dim is not set in conf/, but Model has it; "
                             r"write \+model.head_dim=2$"),
        ("model.hidden_size=8,16", r"^Ambiguous value .* add --multirun"),
        ("seed=[1", r"^'seed=\[1' is not a valid override \(.*\); write key=value"),
        ("~nothing", r"Could not delete from config. 'nothing' does not exist"),
        ("experiment=typo", r"modle"),
        ("hydra/launcher=slrm", r"^hydra/launcher=slrm is not known; use one of .*local"),
    ],
)  # fmt: skip
def test_overrides_that_do_not_fit(app, override, message):
    with pytest.raises(ValueError, match=message) as caught:
        composing(app, override)
    assert "\n" not in str(caught.value)


def test_a_second_wrong_override_does_not_hide_the_nearest_keys_of_the_first(app):
    with pytest.raises(ValueError, match=r"sed is not known; nearest: seed"):
        composing(app, "sed=3", "modl.x=2")


def test_unknown_root(app):
    with pytest.raises(ValueError, match=r"conf/ has no trian.yaml; use one of train"):
        compose("trian", config_dir=app.conf)


def test_constructor_errors_carry_the_path(app):
    config = composing(app, "model.hidden_size=9")
    with pytest.raises(ValueError, match=r"^model: hidden_size=9 must be a multiple of 8; use 8$"):
        instantiate(config.model)


def test_unknown_field_lists_the_fields_nearest_first(app):
    config = composing(app, "+model.hiden_size=8")
    message = r"^model: Model has no field 'hiden_size'; use one of hidden_size, "
    with pytest.raises(ValueError, match=message) as caught:
        instantiate(config.model)
    assert isinstance(caught.value, TypeError) or "TRACEBACK" not in str(caught.value)


def test_target_that_cannot_be_imported(app):
    config = composing(app, "model._target_=app.Modell")
    with pytest.raises(ValueError, match=r"^model: Error locating target 'app.Modell': .*app"):
        instantiate(config.model)


def test_a_constructors_defect_is_not_turned_into_a_message(app):
    with pytest.raises(KeyError):
        instantiate({"_target_": "app.Defective"})


def test_lists_arrive_as_lists():
    assert type(instantiate({"_target_": "builtins.dict", "a": [1, 2]})["a"]) is list


def test_values_that_are_asked_for_later(app):
    with pytest.raises(Exception) as missing:
        _ = composing(app, "data=required").data.train
    assert describe_configuration_error(missing.value) == (
        "data.train is required and not given; set data.train=…"
    )
    with pytest.raises(Exception) as interpolation:
        _ = composing(app, "seed=${model.depth}").seed
    assert describe_configuration_error(interpolation.value) == (
        "seed: Interpolation key 'model.depth' not found"
    )


def test_the_conf_folder_is_beside_the_package_in_a_clone_and_in_it_when_installed(
    monkeypatch, tmp_path
):
    monkeypatch.setattr("sys.argv", [str(tmp_path / "bin" / "train")])
    assert config_folder() == Path(__file__).parents[2] / "conf"
    package = tmp_path / "site-packages" / "mobilellm"
    monkeypatch.setattr("mobilellm.__file__", str(package / "__init__.py"))
    # A folder of the same name that belongs to another distribution.
    (tmp_path / "site-packages" / "conf").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"no conf/ folder .*; install the package again"):
        config_folder()
    (package / "conf").mkdir(parents=True)
    (package / "conf" / "train.yaml").write_text("seed: 0\n", encoding="utf-8")
    assert config_folder() == package / "conf"


def test_a_group_that_the_command_does_not_have(app):
    (app.conf / "other.yaml").write_text("defaults: [{model: small}, _self_]\n", encoding="utf-8")
    message = r"^data cannot be chosen in this command; it has the groups model$"
    for override in ("data=text", "data.train=a.txt"):
        with pytest.raises(ValueError, match=message):
            compose("other", [override], config_dir=app.conf)
