"""Profiles of engines whose times follow a known law."""

from mobilellm.accounting.engine_files import engine_file_bytes
from mobilellm.evaluation.engine_profile.plan import ProfileCase, ProfilePlan
from mobilellm.evaluation.engine_profile.results import profile_of
from mobilellm.models import ModelConfig

BEFORE, OVERHEAD = 30_000_000, 20_000_000
"""Bytes of Python, and what every engine takes besides the file."""


def engine_profile(
    configs, *, engine="llamacpp", kinds=("f32",), ms=lambda config: 1.0, rounds=5, share=1.0,
    threads=1,
):  # fmt: skip
    """A profile of models by name: `ms` per decoded token, 10 times that for the prompt of 16.

    `share` of the time is processor time.
    """
    cases = tuple(
        ProfileCase(
            model=name, config=config.to_dict(), weights="random", engine=engine, kind=kind,
            threads=threads, path=f"models/{name}-{kind}", file_bytes=engine_file_bytes(
                config, engine, kind
            ),
            expected_bytes=engine_file_bytes(config, engine, kind),
        )
        for name, config in configs.items() for kind in kinds
    )  # fmt: skip
    plan = ProfilePlan(cases=cases, prompt_lengths=(4, 16), decode_tokens=2, rounds=rounds)
    samples = {
        case.name: [_sample(case, ms, n, share) for n in range(rounds + 1)] for case in cases
    }
    return profile_of(plan, samples, device="a phone", command="run.py", versions={"torch": "2"})


def _sample(case, ms, number, share):
    time = ms(ModelConfig.from_dict(case.config)) * (1 + 0.01 * number)
    return {
        "load_ms": 5 * time, "init_ms": 0.1, "first_run_ms": 12 * time,
        "start_cpu_ms": share * (5 * time + 0.1),
        "prefill_cpu_ms": [share * 3 * time, share * 10 * time],
        "decode_cpu_ms": [share * 0.9 * time, share * time],
        "prefill_ms": [3 * time, 10 * time], "decode_ms": [0.9 * time, time],
        "decode_joules": [None, None], "memory_before_bytes": BEFORE,
        "peak_memory_bytes": BEFORE + case.file_bytes + OVERHEAD,
    }  # fmt: skip
