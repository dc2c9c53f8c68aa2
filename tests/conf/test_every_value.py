"""Every key of every file under conf/ with values that make no sense, or only just.

Each is accepted with a meaning (`accepted_values.py`) or refused in one line that names it, by the
checks that a command makes before it reads any data.
"""

from collections.abc import Iterator
from dataclasses import fields
from fnmatch import fnmatch
from typing import Any

import pytest
from accepted_values import FREE_TEXT, PATHS, ROWS
from omegaconf import OmegaConf
from walk import CONF, GROUPS, NO_TEXT, PROBES, Case, all_cases, written_keys

from mobilellm.hydra_app.configuration import compose, instantiate
from mobilellm.hydra_app.root_keys import ROOTS, TRAIN, TRAIN_GROUPS
from mobilellm.hydra_app.root_schema import RunConfig

HOW_TO = (
    "\nA new key needs its type and range: as annotation and in check_fields(…) or @checked(…) of "
    "what takes it, or as a row of mobilellm/hydra_app/root_keys.py where it stands at the root of "
    "a file. An extreme value that has a meaning gets a row in tests/conf/accepted_values.py."
)


@pytest.fixture(scope="module")
def walked(tmp_path_factory) -> tuple[dict[str, Case], set[str]]:
    from mobilellm.checkpoint import save_model
    from mobilellm.models import MobileLLM

    folder = tmp_path_factory.mktemp("walk")
    save_model(MobileLLM(instantiate(compose("train", ["model=debug"]).model)), folder / "teacher")
    return all_cases(folder)


@pytest.fixture
def cases(walked) -> dict[str, Case]:
    return walked[0]


def _is_text(key: str) -> bool:
    return any(fnmatch(key, pattern) for pattern in (*FREE_TEXT, *PATHS))


def _probes(key: str) -> Iterator[tuple[str, Any]]:
    """Names and values; what takes text is given what is none."""
    if _is_text(key):
        # Numbers are no other type: OmegaConf makes text of them where text is asked for.
        yield "wrong type", NO_TEXT
        return
    yield from PROBES.items()
    if key.endswith("sbatch_options"):
        yield "a mapping", NO_TEXT


def _accepted() -> set[tuple[str, str]]:
    return {(pattern, probe) for pattern, probes, _ in ROWS for probe in probes}


@pytest.mark.slow
def test_every_value_is_refused_in_one_line_or_has_a_meaning(cases):
    wrong, met = [], set()
    for case in cases.values():
        for probe, value in _probes(case.key):
            message, _ = case.outcome(value)
            rows = {row for row in _accepted() if fnmatch(case.key, row[0]) and row[1] == probe}
            leaf = case.key.rpartition(".")[2].partition("[")[0]
            if message is None and not rows:
                wrong.append(f"{case.file}: {case.key}={value!r} is accepted")
            elif message is not None and rows:
                wrong.append(f"{case.file}: {case.key}={value!r} is refused: {message}")
            elif message is not None and (leaf not in message or "\n" in message):
                wrong.append(f"{case.file}: {case.key}={value!r}: {message!r} names no key")
            met |= rows
    wrong += [f"accepted_values.py: no key meets the row {row}" for row in _accepted() - met]
    assert not wrong, "\n".join(wrong) + HOW_TO


def test_every_key_of_every_file_is_met(walked):
    """Files that set keys of others (experiments, variants) set none that is not walked."""
    met = walked[1]
    heads = {key.partition("[")[0] for key in met}
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.relative_to(CONF).parts[0]
        for key in written_keys(path):
            full = key if path.parent == CONF or group in ("experiment", "variant") else (
                f"hydra.launcher.{key}" if group == "hydra" else f"{group}.{key}"
            )  # fmt: skip
            if full in ("", f"{group}.", "hydra.launcher.") or full.startswith("hydra.sweeper."):
                continue
            known = full in heads or full in GROUPS or any(h.startswith(f"{full}.") for h in heads)
            assert known, f"{path}: {key} is not walked{HOW_TO}"


def test_every_root_key_has_a_row():
    names = {field.name for field in fields(RunConfig)}
    assert names == {*TRAIN, *TRAIN_GROUPS}, HOW_TO
    for root, (rows, groups) in ROOTS.items():
        keys = {key.partition(".")[0] for key in written_keys(CONF / f"{root}.yaml")}
        if root == "search":  # whose other keys are those of a run
            assert {*rows} - {*TRAIN} == keys | {"search_space"}, HOW_TO
            continue
        assert keys <= {*rows, *groups} <= keys | set(groups), f"{root}: {HOW_TO}"


def test_what_is_accepted_is_in_the_configuration_and_printed(cases):
    """Nothing changes training without standing in config.yaml and in what is printed."""
    from mobilellm.pipeline.identity import flat_config
    from mobilellm.pipeline.plan import plan_run
    from mobilellm.pipeline.start_messages import settings_lines

    for case in cases.values():
        for probe, value in _probes(case.key):
            rows = [row for row in _accepted() if fnmatch(case.key, row[0]) and row[1] == probe]
            if not rows or case.file.partition("/")[0] not in ("train", *GROUPS):
                continue
            if fnmatch(case.key, "model.?os_token_id"):
                continue  # the data's tokenizer decides where the command line does not
            config = OmegaConf.create(case.config)
            OmegaConf.update(config, case.key, value, merge=False)
            kept = flat_config(plan_run(config).config)[case.key]
            assert float(kept) == float(value), case.key
    lines = settings_lines([f"key_{n}=value" for n in range(12)] + ["a.long.path=" + "x" * 90])
    assert " ".join(line.strip() for line in lines).split()[1:13] == [
        f"key_{n}=value" for n in range(12)
    ]
    assert all(len(line) <= 80 for line in lines[:-1])
