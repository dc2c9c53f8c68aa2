"""Writes a bundle: exported models, and the files that measure them on another device."""

import ast
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mobilellm.evaluation.engine_profile.bundle_runner import PACKAGES, PLAN
from mobilellm.evaluation.engine_profile.plan import ProfilePlan
from mobilellm.evaluation.engine_profile.results import FIELDS, FORMAT, KIND
from mobilellm.files import new_folder, sole_writer
from mobilellm.paths import check_new_folder, check_writable
from mobilellm.pipeline.bundle_readme import readme_text
from mobilellm.pipeline.engine_profile import EngineGrid, make_plan
from mobilellm.pipeline.profiled_models import ProfiledModel, find_models
from mobilellm.provenance import CODE_ROOT
from mobilellm.strict_json import json_schema, to_json

README, RUN, SCHEMA, MODELS = "README.md", "run.py", "result.schema.json", "models"
_ENGINE_MODULES = {"llamacpp": "llama_cpp", "executorch": "executorch_engine"}
_RUNNER = '''"""Measures the models of this bundle; README.md says how."""

import os
import sys
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit("Python 3.11 or newer is required, and this is " + sys.version.split()[0])

BUNDLE = Path(__file__).resolve().parent
os.environ["PYTHONPATH"] = str(BUNDLE)  # for the process of each measurement
sys.path.insert(0, str(BUNDLE))

from mobilellm.evaluation.engine_profile.bundle_runner import main

if __name__ == "__main__":
    sys.exit(main(BUNDLE, sys.argv[1:]))
'''


def write_bundle(texts: Sequence[str], grid: EngineGrid, folder: Path) -> ProfilePlan:
    """Export models into a bundle.

    Until the bundle is complete, exported files are kept in `<folder>.exports`: the same call
    continues with them. Of that folder, only these files are removed.

    Args:
        texts: the models; see `find_models`.
        grid: what is measured on the device.
        folder: a new or empty folder.

    Returns:
        The plan in the bundle.

    Raises:
        ValueError: the folder is in use, the current one, or written by another process, an engine
            cannot be bundled, or a setting is not possible.
        FileNotFoundError: a model does not exist.
        OSError: the disk has no room.
    """
    for engine in grid.engines:
        if engine not in PACKAGES:
            raise ValueError(
                f"--bundle has no engine {engine}, which needs all of this project; give --engines "
                f"{','.join(PACKAGES)}, or run device-profile with --out on the device itself"
            )
    check_new_folder("--bundle", folder)
    # Not `<folder>.files`, which is that of `--out <folder>`.
    files = folder.with_name(f"{folder.name}.exports")
    check_writable("--bundle", files)
    models = find_models(texts)
    with sole_writer("--bundle", folder):
        return _write(models, grid, folder, files)


def _write(
    models: Sequence[ProfiledModel], grid: EngineGrid, folder: Path, files: Path
) -> ProfilePlan:
    """Export into `files`, and write the bundle; see `write_bundle`."""
    plan = make_plan(models, grid, files)
    exported = {Path(case.path) for case in plan.cases}
    with new_folder(folder) as temporary:
        (temporary / MODELS).mkdir()
        for path in exported:
            _link_or_copy(path, temporary / MODELS / path.name)
        inside = replace(
            plan,
            cases=tuple(
                replace(case, path=f"{MODELS}/{Path(case.path).name}") for case in plan.cases
            ),
        )
        texts_by_name = {
            README: readme_text(inside), RUN: _RUNNER,
            PLAN: to_json(inside.to_dict()) + "\n",
            SCHEMA: to_json(json_schema(FIELDS, f"{KIND}, format {FORMAT}")) + "\n",
        }  # fmt: skip
        for name, text in texts_by_name.items():
            (temporary / name).write_text(text, encoding="utf-8")
        for path in needed_files(grid.engines):
            target = temporary / path.relative_to(CODE_ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for path in exported:
        path.unlink()
    with suppress(OSError):  # other files are in it, and are kept
        files.rmdir()
    return inside


def needed_files(engines: Sequence[str]) -> list[Path]:
    """The files of this package that measure in these engines, and all that they import.

    Raises:
        RuntimeError: one of them imports a package besides those of the engines.
    """
    profile = "mobilellm.evaluation.engine_profile"
    engine_modules = [f"mobilellm.evaluation.engines.{_ENGINE_MODULES[one]}" for one in engines]
    found: dict[str, Path] = {}
    waiting = [f"{profile}.bundle_runner", f"{profile}.worker", *engine_modules]
    while waiting:
        name = waiting.pop()
        path = _module_path(name)
        if name in found or path is None:
            continue
        found[name] = path
        waiting += [".".join(name.split(".")[:-1])] if "." in name else []
        for imported in _imports(path):
            root = imported.split(".")[0]
            if root == "mobilellm":
                waiting.append(imported)
            elif root not in sys.stdlib_module_names and name not in engine_modules:
                raise RuntimeError(f"{name} imports {root}, which devices do not have")
    return sorted(found.values())


def _imports(path: Path) -> Iterator[str]:
    """All names that a file imports when it is loaded: modules, and what may be one."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            yield statement.module
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)


def _module_path(name: str) -> Path | None:
    """The file of a module of this package; None: the name is not a module."""
    base = CODE_ROOT.joinpath(*name.split("."))
    found = (base / "__init__.py", base.with_suffix(".py"))
    return next((path for path in found if path.is_file()), None)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)
