"""Imports point downwards, heavy packages stay where they belong, and light modules stay light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mobilellm"

# A module may import from its own part and from parts of lower layers.
LAYERS = (
    ("files", "strict_json", "paths", "ranges", "provenance", "run_folder"),
    ("layers",),
    ("models", "optim", "data"),
    ("checkpoint", "accounting"),
    ("losses",),
    ("evaluation",),
    ("formats",),
    ("compression", "distillation", "search", "report"),
    ("training",),
    ("callbacks",),
    ("cli",),
    ("hydra_app",),
    ("launchers",),
    ("pipeline",),
)
LAYER = {part: level for level, parts in enumerate(LAYERS) for part in parts}
# Leaves that any part may import.
LEAVES = set(LAYERS[0])
# Until the command line is restructured.
PENDING = {("cli", "hydra_app"), ("hydra_app", "launchers")}
ALLOWED_IN = {
    "lightning": {"training", "callbacks", "pipeline"},
    "hydra": {"cli", "hydra_app", "pipeline", "launchers"},
    "omegaconf": {"hydra_app", "pipeline", "launchers"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """`models` for mobilellm/models/config.py, `checkpoint` for mobilellm/checkpoint.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute names imported anywhere in the file, with their lines.

    What stands under `if TYPE_CHECKING:` is left out: it is never imported when running.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def top_level_imports(path: Path) -> set[str]:
    """Packages imported when the module is imported."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_every_part_has_a_layer():
    unknown = {part_of(path) for path in modules()} - set(LAYER) - {"__init__"}
    assert not unknown, f"give these a layer in LAYERS: {sorted(unknown)}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path):
    part = part_of(path)
    if part == "__init__":
        return
    for name, line in imports(path):
        pieces = name.split(".")
        if pieces[0] == "scripts":
            pytest.fail(f"{path}:{line}: the package imports a script")
        if pieces[0] != "mobilellm" or len(pieces) < 2 or pieces[1] not in LAYER:
            continue
        other = pieces[1]
        allowed = (
            other == part
            or other in LEAVES
            or LAYER[other] < LAYER[part]
            or (part, other) in PENDING
        )
        assert allowed, f"{path.relative_to(ROOT)}:{line}: {part} must not import {other}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_lightning_and_hydra_stay_above(path: Path):
    for name, line in imports(path):
        package = name.split(".")[0]
        allowed = ALLOWED_IN.get("lightning" if package == "pytorch_lightning" else package)
        if allowed is not None:
            assert part_of(path) in allowed, f"{path.relative_to(ROOT)}:{line}: imports {package}"


@pytest.mark.parametrize("part", ["data", "report", "formats", "launchers"])
def test_heavy_packages_are_imported_where_they_are_used(part: str):
    heavy = {"lightning", "datasets", "wandb", "transformers", "matplotlib", "scipy", "pandas"}
    for path in (PACKAGE / part).rglob("*.py"):
        found = top_level_imports(path) & heavy
        assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)} at its top"


def test_a_name_under_type_checking_is_not_an_import(tmp_path: Path):
    source = tmp_path / "module.py"
    source.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lightning\n"
        "def f():\n    import hydra\n",
        encoding="utf-8",
    )
    assert [name for name, _ in imports(source)] == ["typing.TYPE_CHECKING", "hydra"]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("mobilellm.models", ["torch", "lightning", "hydra", "datasets", "wandb"]),
        ("mobilellm.models.mobilellm", ["lightning", "hydra", "datasets", "wandb"]),
        ("mobilellm.accounting", ["torch", "lightning", "hydra", "datasets", "wandb"]),
        ("mobilellm.search.budget", ["torch", "lightning", "hydra", "datasets", "wandb"]),
        ("mobilellm.cli.command", ["torch", "lightning", "hydra", "datasets", "wandb"]),
        ("mobilellm.launchers.local.launcher", ["torch", "lightning", "datasets", "wandb"]),
    ],
)
def test_importing_a_light_module_loads_nothing_heavy(module: str, forbidden: list[str]):
    code = f"import sys, {module}; print([m for m in {forbidden!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
