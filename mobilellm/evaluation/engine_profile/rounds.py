"""Measures all cases of a plan in alternation, and keeps every measurement when it is made."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mobilellm.evaluation.engine_profile.plan import ProfileCase, ProfilePlan

Sample = dict[str, Any]
Samples = dict[str, list[Sample]]
"""By the name of the case, one sample per round, the first of which is the warm-up."""
Report = Callable[[int, int, float | None], None]
"""Called after every measurement: how many are done, how many there are, seconds left."""
_WORKER = "mobilellm.evaluation.engine_profile.worker"


def measure(plan: ProfilePlan, kept: Path, report: Report) -> Samples:
    """Measure what `kept` does not have yet.

    In each round every case is measured once, and every second round reverses the order, so that
    other work on the machine affects all alike. Each measurement has a new process, as when an
    application starts, so that no memory of others is in use.

    Args:
        plan: what is measured.
        kept: file of the measurements, a line of JSON for each; a measurement that was interrupted
            continues with it.
        report: called after every measurement.

    Returns:
        The samples of all rounds, and of the warm-up before them.

    Raises:
        ValueError: `kept` has measurements of another plan.
        ChildProcessError: an engine failed.
    """
    samples = read_kept(plan, kept)
    _begin(plan, kept)
    total = len(plan.cases) * (plan.rounds + 1)
    done = sum(min(len(known), plan.rounds + 1) for known in samples.values())
    start, already = time.perf_counter(), done
    warm: set[str] = set()
    with kept.open("a", encoding="utf-8") as file:
        for number in range(plan.rounds + 1):
            for case in plan.cases[:: -1 if number % 2 else 1]:
                if len(samples[case.name]) > number:
                    continue
                if number and case.name not in warm:  # continued: the file may not be in memory
                    measure_once(case, plan)
                warm.add(case.name)
                sample = measure_once(case, plan)
                samples[case.name].append(sample)
                line = json.dumps({"case": case.name, "round": number, **sample}, allow_nan=False)
                file.write(f"{line}\n")
                file.flush()
                done += 1
                passed = time.perf_counter() - start
                report(done, total, passed / (done - already) * (total - done))
    return samples


def read_kept(plan: ProfilePlan, kept: Path) -> Samples:
    """The samples in a file that an interrupted measurement has left; a cut last line is ignored.

    Raises:
        ValueError: the file has measurements of another plan.
    """
    samples: Samples = {case.name: [] for case in plan.cases}
    if not kept.exists():
        return samples
    head, *lines = kept.read_text(encoding="utf-8").split("\n")
    if _parsed(head).get("plan") != plan.key:
        raise ValueError(
            f"{kept} has measurements of other models or settings; give the same ones to continue, "
            "another --out, or remove the file"
        )
    for line in lines:
        sample = _parsed(line)
        known = samples.get(sample.pop("case", ""), None)
        if known is not None and sample.pop("round") == len(known):
            known.append(sample)
    return samples


def _begin(plan: ProfilePlan, kept: Path) -> None:
    """Write the first line of a new file, or end the cut last line of an old one."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not kept.exists():
        kept.write_text(json.dumps({"plan": plan.key}, allow_nan=False) + "\n", encoding="utf-8")
    elif not kept.read_text(encoding="utf-8").endswith("\n"):
        with kept.open("a", encoding="utf-8") as file:
            file.write("\n")


def measure_once(case: ProfileCase, plan: ProfilePlan) -> Sample:
    """Measure one case in a new process.

    Raises:
        ChildProcessError: the process failed; the message has the last line of what it wrote.
    """
    settings = {
        "case": asdict(case), "context": plan.context, "decode_tokens": plan.decode_tokens,
        "prompt_lengths": plan.prompt_lengths,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", _WORKER],
        input=json.dumps(settings, allow_nan=False), capture_output=True, encoding="utf-8",
        errors="replace", check=False,
    )  # fmt: skip
    if done.returncode or not done.stdout:
        raise ChildProcessError(f"{case.name} failed: {_reason(done.returncode, done.stderr)}")
    return json.loads(done.stdout)


def _reason(code: int, errors: str) -> str:
    """Why a process failed; a negative code is the number of the signal that ended it."""
    if code == -9:
        return "it was killed, as happens if memory is full; free some, or measure smaller models"
    lines = errors.strip().splitlines()
    if code < 0 or not lines:
        return f"it ended with code {code}"
    return lines[-1]


def _parsed(line: str) -> Sample:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
