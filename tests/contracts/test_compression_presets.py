"""The contract of recipes holds for every file of conf/compression: a new method needs no row."""

from dataclasses import fields
from pathlib import Path

import pytest
import test_compression_recipes as contract
import yaml
from hydra.utils import get_class

ROOT = Path(__file__).parents[2]
CLASSES = {type(recipe).__name__ for recipe in contract.RECIPES.values()}


def presets():
    """Name, settings and sharing scheme: all schemes for a class without rows, else one."""
    for path in sorted((ROOT / "conf/compression").glob("*.yaml")):
        node = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "_target_" in node:  # other files are variants of one that has it
            is_known = node["_target_"].rpartition(".")[2] in CLASSES
            for scheme in ["immediate"] if is_known else contract.SCHEMES:
                yield pytest.param(path.stem, node, scheme, id=f"{path.stem}-{scheme}")


@pytest.mark.usefixtures("uneven_schemes")
@pytest.mark.parametrize(("name", "node", "scheme"), presets())
def test_every_preset_keeps_the_contract(name, node, scheme, tmp_path, monkeypatch):
    recipe_class = get_class(node["_target_"])
    names = {field.name for field in fields(recipe_class)}
    recipe = recipe_class(**{key: value for key, value in node.items() if key in names})
    monkeypatch.setitem(contract.RECIPES, name, recipe)
    contract.test_every_recipe_and_scheme(name, scheme, tmp_path)
