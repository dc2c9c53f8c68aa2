"""Exports models to the formats of engines, and measures them there."""

import errno
import importlib.metadata
import importlib.util
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobilellm.accounting.engine_files import (
    BLOCK,
    ENGINE_TYPES,
    can_have_type,
    engine_file_bytes,
)
from mobilellm.checkpoint import WEIGHTS_FILE, save_model
from mobilellm.evaluation.engine_profile.bundle_runner import PACKAGES as BUNDLE_PACKAGES
from mobilellm.evaluation.engine_profile.plan import ProfileCase, ProfilePlan
from mobilellm.evaluation.engine_profile.progress_line import ProgressLine
from mobilellm.evaluation.engine_profile.results import EngineProfile, profile_of, write_result
from mobilellm.evaluation.engine_profile.rounds import measure
from mobilellm.files import new_folder, sole_writer
from mobilellm.formats.executorch import export_executorch
from mobilellm.formats.gguf import export_gguf
from mobilellm.models.checks import check_choice
from mobilellm.paths import check_writable
from mobilellm.pipeline.profiled_models import ProfiledModel, find_models
from mobilellm.provenance import command_line, device_name, versions
from mobilellm.ranges import Range, check_fields
from mobilellm.units import bytes_text

logger = logging.getLogger(__name__)

PACKAGES = {
    "torch": (), "llamacpp": (BUNDLE_PACKAGES["llamacpp"], "gguf"),
    "executorch": (BUNDLE_PACKAGES["executorch"],),
}  # fmt: skip
"""What each engine and the export to its format need; also the names of the project's extras."""
_NUMBER = Range(at_least=1, cap=2**20)


@dataclass(frozen=True, kw_only=True)
class EngineGrid:
    """What is measured of every model.

    Raises:
        ValueError: an engine, a type or a number is not possible, or an engine is not installed.
    """

    engines: Sequence[str]
    types: Sequence[str] | None = None
    """Each engine is measured with those that it has. None: the first type of each engine."""
    threads: Sequence[int] = (1,)
    prompt_lengths: Sequence[int] = (16, 128)
    tokens: int = 16
    """Tokens decoded after each prompt."""
    rounds: int = 30

    def __post_init__(self) -> None:
        """Check the settings."""
        check_fields(self, threads=_NUMBER, prompt_lengths=_NUMBER, tokens=_NUMBER, rounds=_NUMBER)
        for engine in self.engines:
            check_choice("--engines", engine, tuple(ENGINE_TYPES))
            self.types_of(engine)
        for kind in self.types or ():
            known = [one for engine in self.engines for one in ENGINE_TYPES[engine]]
            check_choice("--types", kind, tuple(dict.fromkeys(known)))
        check_installed(self.engines)

    def types_of(self, engine: str) -> tuple[str, ...]:
        """The types that an engine is measured with.

        Raises:
            ValueError: it has none of those that are asked for.
        """
        known = ENGINE_TYPES[engine]
        if self.types is None:
            return known[:1]
        found = tuple(kind for kind in dict.fromkeys(self.types) if kind in known)
        if not found:
            raise ValueError(
                f"--types {','.join(self.types)} has no type of {engine}, which has "
                f"{', '.join(known)}; add one of them, or leave {engine} out of --engines"
            )
        return found


def profile_engines(texts: Sequence[str], grid: EngineGrid, out: Path) -> EngineProfile:
    """Export models, measure them, and write the result to `out`.

    The exported files stay in `<out>.files`, and the measurements in `<out>.partial.jsonl` until
    all are made; the same call continues with both.

    Args:
        texts: the models; see `find_models`.
        grid: what is measured.
        out: a new file.

    Raises:
        ValueError: `out` exists, another process writes it, a setting is not possible, or partial
            measurements are of others.
        FileNotFoundError: a model does not exist.
        OSError: the disk has no room.
        ChildProcessError: an engine failed.
    """
    if out.exists():
        raise ValueError(f"--out {out} exists, and is not overwritten; give another name")
    check_writable("--out", out.absolute().parent)
    models = find_models(texts)
    with sole_writer("--out", out):
        return _profile(models, grid, out)


def _profile(models: Sequence[ProfiledModel], grid: EngineGrid, out: Path) -> EngineProfile:
    """Export, measure and write; see `profile_engines`."""
    plan = make_plan(models, grid, out.with_name(f"{out.name}.files"))
    kept = out.with_name(f"{out.name}.partial.jsonl")
    samples = measure(plan, kept, ProgressLine())
    known = versions() | {
        package: importlib.metadata.version(package)
        for engine in grid.engines for package in PACKAGES[engine]
    }  # fmt: skip
    profile = profile_of(
        plan, samples, device=device_name("cpu"), command=command_line(), versions=known
    )
    write_result(profile, out)
    kept.unlink()
    return profile


def check_installed(engines: Sequence[str]) -> None:
    """Check that the packages of engines are there.

    Raises:
        ValueError: one is missing.
    """
    for engine in engines:
        for package in PACKAGES[engine]:
            if importlib.util.find_spec(package) is None:
                raise ValueError(
                    f"--engines {engine} needs the package {package}, which is not installed; "
                    f"install it with pip install 'mobilellm[{engine}]'"
                )


def make_plan(models: Sequence[ProfiledModel], grid: EngineGrid, files: Path) -> ProfilePlan:
    """Export what is not in `files` yet, and plan the measurement.

    Args:
        models: to measure.
        grid: how.
        files: folder of the exported files, which are used again.

    Raises:
        ValueError: the tokens exceed the context of a model, or a type cannot hold a model.
        OSError: the disk has no room for the files (ENOSPC).
    """
    plan = ProfilePlan(
        cases=(), prompt_lengths=tuple(dict.fromkeys(grid.prompt_lengths)),
        decode_tokens=grid.tokens, rounds=grid.rounds,
    )  # fmt: skip
    for model in models:
        longest = model.config.max_position_embeddings
        if plan.context > longest:
            raise ValueError(
                f"prompts of {max(plan.prompt_lengths)} tokens and what follows need a context of "
                f"{plan.context}, and {model.name} has {longest}; give smaller --prompt-lengths"
            )
    wanted = _wanted(models, grid)
    paths = _paths(wanted, files, plan.context)
    _check_room(wanted, paths, files)
    for model in models:
        missing = {
            (engine, kind): paths[model.name, engine, kind]
            for one, engine, kind in wanted
            if one is model and not paths[model.name, engine, kind].exists()
        }
        _export(model, missing, plan.context)
    cases = tuple(
        _case(model, engine, kind, threads, paths[model.name, engine, kind])
        for model, engine, kind in wanted
        for threads in dict.fromkeys(grid.threads)
    )
    return ProfilePlan(**{**vars(plan), "cases": cases})


def _wanted(
    models: Sequence[ProfiledModel], grid: EngineGrid
) -> list[tuple[ProfiledModel, str, str]]:
    """Every model with every engine and type.

    Raises:
        ValueError: the rows of a model do not consist of whole blocks of a type.
    """
    wanted = [
        (model, engine, kind)
        for model in models for engine in dict.fromkeys(grid.engines)
        for kind in grid.types_of(engine)
    ]  # fmt: skip
    for model, engine, kind in wanted:
        if not can_have_type(model.config, engine, kind):
            raise ValueError(
                f"{model.name} cannot have the type {kind} of {engine}, whose blocks of {BLOCK} "
                f"weights do not fill the rows of all its matrices; leave out the type, or the "
                f"model, or give widths that are multiples of {BLOCK}"
            )
    return wanted


def _paths(
    wanted: Sequence[tuple[ProfiledModel, str, str]], files: Path, context: int
) -> dict[tuple[str, str, str], Path]:
    """The file (for torch, the folder) of every case; a file of ExecuTorch has a fixed context."""
    digests = {model.name: model.digest() for model, _, _ in wanted}
    suffixes = {"torch": "", "llamacpp": ".gguf", "executorch": f"-{context}.pte"}
    return {
        (m.name, engine, kind): files / f"{digests[m.name]}-{kind}{suffixes[engine]}"
        for m, engine, kind in wanted
    }


def _check_room(
    wanted: Sequence[tuple[ProfiledModel, str, str]],
    paths: Mapping[tuple[str, str, str], Path],
    files: Path,
) -> None:
    missing = {
        paths[model.name, engine, kind]: engine_file_bytes(model.config, engine, kind)
        for model, engine, kind in wanted
        if not paths[model.name, engine, kind].exists()
    }
    needed = sum(missing.values())
    folder = next(p for p in (files.absolute(), *files.absolute().parents) if p.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the exported files take {bytes_text(needed)} in {files}, {bytes_text(free)} are free",
        )


def _export(model: ProfiledModel, missing: Mapping[tuple[str, str], Path], context: int) -> None:
    if not missing:
        return
    loaded, tokenizer = model.load()
    for (engine, kind), path in missing.items():
        slow = ", which takes minutes for large models" if engine == "executorch" else ""
        logger.info("exporting %s to %s, %s%s", model.name, engine, kind, slow)
        if engine == "torch":
            with new_folder(path) as temporary:
                save_model(loaded, temporary)
        elif engine == "llamacpp":
            export_gguf(loaded, path, tokenizer, kind=kind)
        else:
            export_executorch(loaded, path, tokenizer, kind=kind, context=context)


def _case(model: ProfiledModel, engine: str, kind: str, threads: int, path: Path) -> ProfileCase:
    weights = path / WEIGHTS_FILE if engine == "torch" else path
    return ProfileCase(
        model=model.name,
        config=model.config.to_dict(),
        weights=model.weights,
        engine=engine,
        kind=kind,
        threads=threads,
        path=str(path),
        file_bytes=weights.stat().st_size,
        expected_bytes=engine_file_bytes(model.config, engine, kind),
    )
