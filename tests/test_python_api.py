"""`import mobilellm` is light, and offers what a notebook needs."""

import subprocess
import sys

import pytest

import mobilellm

HEAVY = (
    "torch",
    "lightning",
    "hydra",
    "datasets",
    "wandb",
    "pandas",
    "numpy",
    "matplotlib",
    "yaml",
)


def test_importing_the_package_loads_no_dependency():
    code = f"import sys, mobilellm; dir(mobilellm); print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(mobilellm._MODULES))
def test_each_public_name_has_a_docstring_and_its_module(name):
    value = getattr(mobilellm, name)
    assert value.__module__ == mobilellm._MODULES[name]
    assert value.__doc__
    assert name in dir(mobilellm) and name in mobilellm.__all__


def test_the_table_and_the_names_for_editors_agree():
    assert {*mobilellm._MODULES, "__version__"} == {*mobilellm.__all__}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'mobilellm' has no attribute 'train_it'"):
        mobilellm.train_it  # noqa: B018


def test_a_model_of_a_budget():
    config = mobilellm.config_for_budget(budget=1e6, num_blocks=12, match="body", vocab_size=2048)
    assert isinstance(config, mobilellm.ModelConfig)
    model = mobilellm.MobileLLM(config)
    assert model.config.num_layers == 12
