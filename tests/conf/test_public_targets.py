"""Every `_target_` in conf/ is a public name of a package, never of one of its files."""

import re
from importlib import import_module
from pathlib import Path

import pytest

CONF = Path(__file__).parents[2] / "conf"
TARGETS = sorted(
    {
        target
        for path in CONF.rglob("*.yaml")
        for target in re.findall(r"_target_: *([\w.]+)", path.read_text(encoding="utf-8"))
    }
)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_a_public_name_of_a_package(target):
    package, _, name = target.rpartition(".")
    module = import_module(package)
    assert hasattr(module, "__path__"), f"{package} is a file; name its package"
    assert callable(getattr(module, name))


def test_there_are_targets():
    assert len(TARGETS) > 30
