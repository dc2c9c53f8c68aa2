"""Decode latencies that were measured on another device, for the verdicts at equal latency."""

from collections.abc import Sequence
from pathlib import Path

from mobilellm.evaluation.engine_profile.results import CaseResult, EngineProfile, read_result
from mobilellm.models import ModelConfig
from mobilellm.report.caution import shorten_list
from mobilellm.report.labels import make_labels
from mobilellm.report.latency import Latencies, LatencyConditions, shape_key
from mobilellm.report.runs import Run
from mobilellm.units import plural


def read_latencies(path: Path, runs: Sequence[Run], setting: str | None = None) -> Latencies:
    """The latencies of the shapes of some runs in the results of a device.

    They are the times per token after the longest prompt.

    Args:
        path: what a bundle or `mobilellm device-profile MODEL …` wrote.
        runs: their architectures are looked up.
        setting: engine, type and threads, such as `llamacpp/q8_0/1`; None: the only one there is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such a file, has several settings or not this one, or has times of
            fewer than two of the shapes.
    """
    profile = read_result(path)
    found = _settings(profile)
    if setting is None and len(found) > 1:
        raise ValueError(
            f"--latency-from {path} has {len(found)} settings; choose one of "
            f"{', '.join(found)} with --latency-setting"
        )
    setting = setting or found[0]
    if setting not in found:
        raise ValueError(
            f"--latency-setting {setting} is not in {path}; use one of {', '.join(found)}"
        )
    results = [one for one in profile.results if one.case.setting == setting]
    lengths = profile.plan.prompt_lengths
    place = lengths.index(max(lengths))
    measured = {_key(one): tuple(one.values("decode_ms", place)) for one in results}
    shapes = {shape_key(run.model): run for run in runs}
    labels = dict(zip(shapes, make_labels([*shapes.values()], with_rates=False), strict=True))
    missing = [label for key, label in labels.items() if key not in measured]
    if len(shapes) - len(missing) < 2:
        raise ValueError(
            f"--latency-from {path} has times of {len(shapes) - len(missing)} of the "
            f"{plural(len(shapes), 'shape')} that are compared, and 2 are required; missing: "
            f"{shorten_list(missing)}. Measure the models of these runs"
        )
    return Latencies(
        conditions=LatencyConditions(
            device=profile.device, threads=results[0].case.threads, context=max(lengths),
            torch=profile.versions.get("torch"), setting=setting, file=str(path),
        ),
        rounds={key: times for key, times in measured.items() if key in shapes},
        processor_share=min(one.processor_share or 1.0 for one in results),
        missing=tuple(missing),
    )  # fmt: skip


def _settings(profile: EngineProfile) -> list[str]:
    return list(dict.fromkeys(result.case.setting for result in profile.results))


def _key(result: CaseResult) -> str:
    return shape_key(ModelConfig.from_dict(result.case.config))
