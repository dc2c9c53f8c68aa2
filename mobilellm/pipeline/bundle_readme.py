"""The README of a bundle that measures models on another device."""

from mobilellm.evaluation.engine_profile.bundle_runner import PACKAGES
from mobilellm.evaluation.engine_profile.plan import ProfilePlan
from mobilellm.evaluation.engine_profile.results import FORMAT
from mobilellm.models import ModelConfig
from mobilellm.models.shape_name import shape_name
from mobilellm.units import bytes_text, join_names, plural

_TEXT = """# Measuring language models on this device

This folder measures how fast {models} run on a device: the time to load and to prepare, to the
first token, to read and to decode, and memory. The prompts are random tokens; what the models
would answer plays no part.

## What the device needs

Python 3.11 or newer, and `pip install {packages}`{torch}.
Nothing else is needed or installed, and only this folder is written to. There are packages for
Linux on x86-64 and on 64-bit ARM at least. On an Android phone, use a Linux container. More than
{size} of memory must be free, for the largest model.

## Measuring

```sh
python3 run.py --device "name of the device"
```

It writes `results.json`. Every measurement is kept when it is made: the same command continues an
interrupted one. `--threads 1 2 4` measures with other numbers of threads, `--rounds N` changes the
number of measurements ({rounds} of each), and `--out FILE` gives another name.

Close other applications, connect the charger, and let the device cool down first: a phone that is
hot becomes slower. The models are measured in alternation, so that this affects all of them alike.

## Sending back

Send `results.json`. It contains times, memory, the name of the device, versions and the command;
`result.schema.json` describes it (format {format}). These commands read it:

```sh
mobilellm device-profile --results results.json
mobilellm compare RUN_OR_SWEEP_DIR --latency-from results.json
```

## The models

| file | model | blocks × width | engine | type | size | threads |
|---|---|---|---|---|--:|---|
{rows}

Prompts of {lengths} tokens, {tokens} decoded after each.
"""


def readme_text(plan: ProfilePlan) -> str:
    """What the bundle measures, what it needs, and what to do."""
    by_path: dict[str, list[int]] = {}
    for case in plan.cases:
        by_path.setdefault(case.path, []).append(case.threads)
    rows = [
        f"| `{case.path}` | {case.model} ({case.weights} weights) "
        f"| {shape_name(ModelConfig.from_dict(case.config))} "
        f"| {case.engine} | {case.kind} "
        f"| {bytes_text(case.file_bytes)} | {', '.join(map(str, by_path[case.path]))} |"
        for case in {case.path: case for case in plan.cases}.values()
    ]
    engines = sorted({case.engine for case in plan.cases})
    largest = max(case.file_bytes for case in plan.cases)
    return _TEXT.format(
        models=plural(len({case.model for case in plan.cases}), "model"),
        packages=" ".join(PACKAGES[engine] for engine in engines),
        torch=" torch (ExecuTorch's Python package needs it)" if "executorch" in engines else "",
        size=bytes_text(largest),
        rounds=plan.rounds,
        format=FORMAT,
        rows="\n".join(rows),
        lengths=join_names([str(length) for length in plan.prompt_lengths]),
        tokens=plan.decode_tokens,
    )
