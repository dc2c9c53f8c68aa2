"""Imports point downwards without circles, heavy packages stay where they belong."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mobilellm"

# A module may import from its own part and from parts of lower layers.
LAYERS = (
    (
        "bfloat16",
        "files",
        "labels",
        "public_names",
        "recorded_config",
        "strict_json",
        "paths",
        "ranges",
        "units",
        "version",
        "provenance",
        "checkpoint_files",
        "command_names",
        "run_folder",
        "run_lock",
        "run_settings",
    ),
    ("layers",),
    ("models", "data"),
    ("checkpoint", "accounting", "optim"),
    ("losses",),
    ("evaluation",),
    ("formats",),
    ("inference", "compression", "distillation", "adapters", "search"),
    ("report",),
    ("training",),
    ("callbacks",),
    ("cli",),
    ("hydra_app", "chat"),
    ("launchers",),
    ("pipeline",),
    ("commands",),
)
LAYER = {part: level for level, parts in enumerate(LAYERS) for part in parts}
# Leaves, which any part may import.
LEAVES = set(LAYERS[0])
ALLOWED_IN = {
    "lightning": {"training", "callbacks", "pipeline"},
    "hydra": {"hydra_app", "pipeline", "launchers"},
    "omegaconf": {"hydra_app", "pipeline", "launchers"},
}


@dataclass(frozen=True)
class Import:
    """One imported name: `mobilellm.models.config.ModelConfig`."""

    name: str
    line: int
    is_typed: bool
    """Whether it stands under `if TYPE_CHECKING:`, and is never imported when running."""
    is_inside_function: bool


def modules() -> list[Path]:
    """All files but those of `templates`, which are copied into exported folders, not imported."""
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent.name != "templates")


def part_of(path: Path) -> str:
    """`models` for mobilellm/models/config.py, `checkpoint` for mobilellm/checkpoint.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """Everything that the file imports anywhere."""
    return tuple(_imports(ast.parse(path.read_text(encoding="utf-8")), False, False))


def _imports(node: ast.AST, is_typed: bool, is_inside: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, is_typed, is_inside)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative import"
            for alias in child.names:
                yield Import(f"{child.module}.{alias.name}", child.lineno, is_typed, is_inside)
        else:
            is_guard = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, is_typed or is_guard, is_inside or is_function)


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other, by Tarjan's algorithm."""
    found: list[list[str]] = []
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def module_edges() -> dict[str, set[str]]:
    """By module, the modules of the package that it imports, in whatever way."""
    names = {module_name(path) for path in modules()}
    edges: dict[str, set[str]] = {name: set() for name in names}
    for path in modules():
        name = module_name(path)
        for one in imports(path):
            target = one.name if one.name in names else one.name.rpartition(".")[0]
            if target in names and target != name:
                edges[name].add(target)
    return edges


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_circle_of_imports():
    """Imports inside functions and under TYPE_CHECKING count as well."""
    found = [" -> ".join(group) for group in circles(module_edges())]
    assert not found, f"these modules import each other: {found}"


def test_every_part_has_a_layer():
    unknown = {part_of(path) for path in modules()} - set(LAYER) - {"__init__", "__main__"}
    assert not unknown, f"give these a layer in LAYERS: {sorted(unknown)}"


@pytest.mark.parametrize("part", sorted({part_of(path) for path in modules()} & set(LAYER)))
def test_imports_point_downwards(part: str):
    wrong = []
    for path in modules():
        for one in imports(path) if part_of(path) == part else ():
            package, _, rest = one.name.partition(".")
            other = rest.partition(".")[0]
            allowed = (
                package != "mobilellm"
                or other not in LAYER
                or other == part
                or other in LEAVES
                or LAYER[other] < LAYER[part]
            )
            if not allowed or package == "scripts":
                wrong.append(f"{path.relative_to(ROOT)}:{one.line} imports {one.name}")
    assert not wrong, f"{part} is below what it imports: {wrong}"


def test_pipeline_imports_at_the_top_of_its_files():
    """An import inside a function has its reason in a comment on its line or above it."""
    found, unexplained = 0, []
    for path in (PACKAGE / "pipeline").rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        for line in {one.line for one in imports(path) if one.is_inside_function}:
            found += 1
            above = next(text for text in reversed(lines[: line - 1]) if "import " not in text)
            if "#" not in lines[line - 1] and "#" not in above:
                unexplained.append(f"{path.relative_to(ROOT)}:{line}")
    assert found <= 25
    assert not unexplained


@pytest.mark.parametrize("package", sorted(ALLOWED_IN))
def test_lightning_and_hydra_stay_above(package: str):
    wrong = [
        f"{path.relative_to(ROOT)}:{one.line}"
        for path in modules()
        for one in imports(path)
        if one.name.split(".")[0].removeprefix("pytorch_") == package
        and not one.is_typed
        and part_of(path) not in ALLOWED_IN[package]
    ]
    assert not wrong, f"{package} is imported in {wrong}"


@pytest.mark.parametrize("part", ["data", "report", "formats", "launchers"])
def test_heavy_packages_are_imported_where_they_are_used(part: str):
    heavy = {"lightning", "datasets", "wandb", "transformers", "matplotlib", "scipy", "pandas"}
    for path in (path for path in modules() if part_of(path) == part):
        found = {
            one.name.split(".")[0]
            for one in imports(path)
            if not one.is_typed and not one.is_inside_function
        }
        assert not found & heavy, f"{path.relative_to(ROOT)} imports {found & heavy} at its top"


def test_kinds_of_imports_are_told_apart(tmp_path: Path):
    source = tmp_path / "module.py"
    source.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import lightning\n"
        "def f():\n    import hydra\n",
        encoding="utf-8",
    )
    assert [(one.name, one.is_typed, one.is_inside_function) for one in imports(source)] == [
        ("typing.TYPE_CHECKING", False, False),
        ("lightning", True, False),
        ("hydra", False, True),
    ]


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("mobilellm", ["torch", "lightning", "hydra", "datasets", "wandb", "pandas"]),
        ("mobilellm.models", ["torch", "lightning", "hydra", "datasets", "wandb"]),
        ("mobilellm.models.mobilellm", ["lightning", "hydra", "datasets", "wandb"]),
        ("mobilellm.accounting", ["torch", "lightning", "hydra", "datasets", "wandb"]),
        ("mobilellm.search.budget", ["torch", "lightning", "hydra", "datasets", "wandb"]),
        # Offline compression trains nothing.
        ("mobilellm.compression.factorization", ["lightning", "hydra"]),
        ("mobilellm.pipeline.compress", ["lightning", "wandb"]),
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
