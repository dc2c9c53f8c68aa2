"""Measures the models of a bundle on the device that it was copied to.

`mobilellm device-profile --bundle` puts this file into the bundle, which needs no package but that
of the engine; `run.py` there calls it.
"""

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mobilellm.evaluation.engine_profile.plan import (
    BY_PROMPT,
    STARTS,
    ProfilePlan,
    plan_from_dict,
)
from mobilellm.evaluation.engine_profile.progress_line import ProgressLine
from mobilellm.evaluation.engine_profile.results import profile_of, write_result
from mobilellm.evaluation.engine_profile.rounds import measure
from mobilellm.provenance import command_line, device_name, versions

PLAN = "plan.json"
"""The plan in a bundle; the paths in it are relative to the bundle."""
PACKAGES = {"llamacpp": "xllamacpp", "executorch": "executorch"}
"""The package of each engine that bundles are for."""


def main(bundle: Path, arguments: Sequence[str]) -> int:
    """Measure, and write the result; returns the exit code.

    Args:
        bundle: folder of the bundle.
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Measure the models of this bundle. Every measurement is kept when it is made: "
        "the same command continues an interrupted one.",
    )
    parser.add_argument("--out", type=Path, default=bundle / "results.json", metavar="FILE",
                        help="a new file; default: results.json in the bundle")  # fmt: skip
    parser.add_argument("--device", metavar="NAME",
                        help="name of the device; default: that of its processor")  # fmt: skip
    parser.add_argument("--rounds", type=int, metavar="N", help="measurements of each model")
    parser.add_argument("--threads", type=int, nargs="+", metavar="N",
                        help="numbers of CPU threads, each of which is measured")  # fmt: skip
    options = parser.parse_args(arguments)
    try:
        plan = changed_plan(read_plan(bundle), options.rounds, options.threads)
        packages = _check(plan, options.out)
        kept = options.out.with_name(f"{options.out.name}.partial.jsonl")
        samples = measure(plan, kept, ProgressLine())
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    profile = profile_of(
        plan, samples, device=options.device or device_name("cpu"), command=command_line(),
        versions=versions() | packages,
    )  # fmt: skip
    write_result(profile, options.out)
    kept.unlink()
    last = len(plan.prompt_lengths) - 1
    for result in profile.results:
        times = {name: result.spread(name, last) for name in (*STARTS, *BY_PROMPT)}
        texts = [f"{name} {time.median:.4g}" for name, time in times.items() if time is not None]
        sys.stdout.write(f"{result.case.name}: {', '.join(texts)}\n")
    sys.stdout.write(f"Results: {options.out}\n")
    return 0


def read_plan(bundle: Path) -> ProfilePlan:
    """The plan of a bundle, with the paths of its files on this device.

    Raises:
        OSError: it cannot be read.
    """
    plan = plan_from_dict(json.loads((bundle / PLAN).read_text(encoding="utf-8")))
    cases = tuple(replace(case, path=str(bundle / case.path)) for case in plan.cases)
    return replace(plan, cases=cases)


def changed_plan(
    plan: ProfilePlan, rounds: int | None, threads: Sequence[int] | None
) -> ProfilePlan:
    """The plan with other numbers of rounds and of threads.

    Raises:
        ValueError: one is below 1.
    """
    for name, numbers in (("--rounds", [rounds]), ("--threads", threads or [])):
        for number in numbers:
            if number is not None and number < 1:
                raise ValueError(f"{name} {number} must be at least 1")
    cases = plan.cases
    if threads:
        once = {replace(case, threads=0).name: case for case in cases}.values()
        cases = tuple(replace(case, threads=n) for case in once for n in dict.fromkeys(threads))
    return replace(plan, cases=cases, rounds=rounds or plan.rounds)


def _check(plan: ProfilePlan, out: Path) -> dict[str, str]:
    """Refuse before measuring what would fail after it; returns the versions of the packages."""
    if out.exists():
        raise ValueError(f"{out} exists, and is not overwritten; give another name with --out")
    for case in plan.cases:
        path = Path(case.path)
        if not path.is_file() or path.stat().st_size != case.file_bytes:
            raise ValueError(f"{path} is not complete; copy the bundle again")
    found = {}
    for package in sorted({PACKAGES[case.engine] for case in plan.cases}):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            raise ValueError(
                f"the package {package} is not installed; install it with pip install {package}"
            ) from None
    return found
