"""Profiles of engines: what is measured, kept, continued, written and refused."""

import json

import pytest

from mobilellm.commands.device_profile import run
from mobilellm.evaluation.engine_profile.results import read_result, spread_of

SMALL = ["small=tiny_wide", "--engines", "torch", "--prompt-lengths", "2,8", "--tokens", "2"]


@pytest.mark.slow
def test_a_model_is_measured_and_an_interrupted_measurement_continues(tmp_path, capsys):
    out = tmp_path / "a.json"
    run([*SMALL, "--rounds", "2", "--out", str(out)])
    found = read_result(out)
    (result,) = found.results
    assert found.num_rounds == 2 and not (tmp_path / "a.json.partial.jsonl").exists()
    assert result.peak_memory_bytes > result.memory_before_bytes > 0
    assert abs(result.case.file_bytes / result.case.expected_bytes - 1) < 0.01
    assert all(value > 0 for place in (0, 1) for value in result.values("decode_ms", place))
    printed = capsys.readouterr().out
    assert "torch/f32/1" in printed and "2 rounds in alternation" in printed
    lines = [{"plan": found.plan.key}]
    sample = {key: rows[0] for key, rows in result.rounds.items()}
    sample |= {"peak_memory_bytes": 7, "memory_before_bytes": 3}
    lines += [{"case": result.case.name, "round": number, **sample} for number in (0, 1)]
    again = tmp_path / "b.json"
    kept = tmp_path / "b.json.partial.jsonl"
    kept.write_text("\n".join(map(json.dumps, lines)) + '\n{"case": "cut', encoding="utf-8")
    run([*SMALL, "--rounds", "2", "--out", str(again)])
    (continued,) = read_result(again).results
    assert continued.peak_memory_bytes == 7
    assert continued.rounds["load_ms"][0] == result.rounds["load_ms"][0]
    assert continued.rounds["load_ms"][1] != result.rounds["load_ms"][0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nothing", "--engines", "torch"], r"a preset\)='nothing' is not known; use one of"),
        (["tiny_wide", "--engines", "torch", "--types", "q9"], r"--types q9 has no type of torch"),
        (["tiny_wide"], r"MODEL needs --engines"),
        (["tiny_wide", "--engines", "torch", "--depths", "2"], r"--depths has no effect with MODE"),
        (["--types", "f32"], r"--types has no effect without MODEL"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        run([*given, "--out", str(tmp_path / "a.json")])
    assert not list(tmp_path.iterdir())


def test_the_95th_percentile_is_linear_between_values():
    assert spread_of([float(n) for n in range(21)]).p95 == pytest.approx(19.0)
