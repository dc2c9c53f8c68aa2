"""Measures all cases of a plan in alternation, and keeps every measurement when it is made."""

import json
import subprocess
import sys
import tempfile
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

    Each case has a process of its own. In each round every case is measured once, and every second
    round reverses the order, so that other work on the machine affects all alike.

    Args:
        plan: what is measured.
        kept: file of the measurements, a line of JSON for each; a measurement that was interrupted
            continues with it.
        report: called after every measurement.

    Returns:
        The samples of all rounds, and of the warm-up before them.

    Raises:
        ValueError: `kept` has measurements of another plan.
        RuntimeError: an engine failed.
    """
    samples = read_kept(plan, kept)
    _begin(plan, kept)
    total = len(plan.cases) * (plan.rounds + 1)
    done = sum(min(len(known), plan.rounds + 1) for known in samples.values())
    workers: dict[str, _Worker] = {}
    start, already = time.perf_counter(), done
    try:
        with kept.open("a", encoding="utf-8") as file:
            for number in range(plan.rounds + 1):
                for case in plan.cases[:: -1 if number % 2 else 1]:
                    if len(samples[case.name]) > number:
                        continue
                    if case.name not in workers:
                        workers[case.name] = _Worker(case, plan)
                        if number:  # the measurement was interrupted: it needs a warm-up again
                            workers[case.name].round()
                    sample = workers[case.name].round()
                    samples[case.name].append(sample)
                    line = json.dumps({"case": case.name, "round": number, **sample})
                    file.write(f"{line}\n")
                    file.flush()
                    done += 1
                    passed = time.perf_counter() - start
                    report(done, total, passed / (done - already) * (total - done))
    finally:
        for worker in workers.values():
            worker.close()
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
        kept.write_text(json.dumps({"plan": plan.key}) + "\n", encoding="utf-8")
    elif not kept.read_text(encoding="utf-8").endswith("\n"):
        with kept.open("a", encoding="utf-8") as file:
            file.write("\n")


def _parsed(line: str) -> Sample:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class _Worker:
    """The process of one case."""

    def __init__(self, case: ProfileCase, plan: ProfilePlan) -> None:
        self._case = case
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", _WORKER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, encoding="utf-8",
        )  # fmt: skip
        settings = {
            "case": asdict(case), "context": plan.context, "decode_tokens": plan.decode_tokens,
            "prompt_lengths": plan.prompt_lengths,
        }  # fmt: skip
        self._send(json.dumps(settings))

    def round(self) -> Sample:
        """Measure once.

        Raises:
            RuntimeError: the process ended.
        """
        self._send("{}")
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            self._process.wait()
            self._errors.seek(0)
            text = self._errors.read().decode(errors="replace").strip()
            reason = (text.splitlines() or [f"exit code {self._process.returncode}"])[-1]
            raise RuntimeError(f"{self._case.name} ended: {reason}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _send(self, line: str) -> None:
        try:
            if self._process.stdin:
                self._process.stdin.write(f"{line}\n")
                self._process.stdin.flush()
        except BrokenPipeError:
            return  # `round` says why the process ended
