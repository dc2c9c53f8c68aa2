"""Packages with one class per file offer each class without a list of them."""

import importlib
import pkgutil

import pytest
from lightning.pytorch import Callback

import mobilellm.callbacks
import mobilellm.distillation
import mobilellm.training
from mobilellm.public_names import import_public_class


def test_every_callback_is_found_by_its_name():
    for module in pkgutil.iter_modules(mobilellm.callbacks.__path__, "mobilellm.callbacks."):
        for name, value in vars(importlib.import_module(module.name)).items():
            is_ours = isinstance(value, type) and value.__module__ == module.name
            if is_ours and issubclass(value, Callback):
                assert getattr(mobilellm.callbacks, name) is value


def test_names_of_the_training_package():
    for name in mobilellm.training._MODULES:
        assert getattr(mobilellm.training, name).__name__ == name


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("ForwardKL", "forward_kl"),
        ("HiddenStateMSE", "hidden_state_mse"),
        ("forward_kl", "forward_kl"),
    ],
)
def test_a_loss_is_found_by_the_name_of_its_file(name, file):
    found = import_public_class(
        "mobilellm.distillation", name, files="mobilellm.distillation.losses"
    )
    assert found.__module__ == f"mobilellm.distillation.losses.{file}"


@pytest.mark.parametrize("name", ["NoSuchCallback", "Callback", "logging", "checkpoint_callback"])
def test_other_names_are_refused(name):
    with pytest.raises(AttributeError, match=f"'mobilellm.callbacks' has no attribute '{name}'"):
        getattr(mobilellm.callbacks, name)
