"""Profiles of engines: what is measured, kept, continued, written and refused."""

import json

import pytest
from simulated_engine_profile import engine_profile
from simulated_sweep import model

from mobilellm.commands.device_profile import run
from mobilellm.evaluation.engine_profile import rounds
from mobilellm.evaluation.engine_profile.results import read_result, spread_of, write_result
from mobilellm.files import sole_writer

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
    assert all(value > 0 for place in (0, 1) for value in result.values("decode_cpu_ms", place))
    assert 0 < result.processor_share <= 1
    printed = capsys.readouterr().out
    assert "torch/f32/1" in printed and "2 rounds in alternation" in printed
    lines = [{"plan": found.plan.key}]
    sample = {key: values[0] for key, values in result.rounds.items()} | {"load_ms": 7.0}
    lines += [{"case": result.case.name, "round": number, **sample} for number in (0, 1)]
    again = tmp_path / "b.json"
    kept = tmp_path / "b.json.partial.jsonl"
    kept.write_text("\n".join(map(json.dumps, lines)) + '\n{"case": "cut', encoding="utf-8")
    run([*SMALL, "--rounds", "2", "--out", str(again)])
    (continued,) = read_result(again).results
    assert continued.rounds["load_ms"][0] == 7.0 != continued.rounds["load_ms"][1]


def test_what_is_kept_is_not_measured_again_and_a_continued_case_is_warmed_up(
    tmp_path, monkeypatch
):
    plan = engine_profile({"a": model(1), "b": model(2)}, rounds=2).plan
    measured = []
    monkeypatch.setattr(rounds, "measure_once", lambda case, _: measured.append(case.model) or {})
    first, second = (case.name for case in plan.cases)
    kept = tmp_path / "kept.jsonl"
    lines = [{"plan": plan.key}, {"case": first, "round": 0}, {"case": second, "round": 0},
             {"case": second, "round": 1}]  # fmt: skip
    kept.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    samples = rounds.measure(plan, kept, lambda *_: None)
    assert {name: len(found) for name, found in samples.items()} == {first: 3, second: 3}
    # Each once more than is missing; the order is reversed in every second round.
    assert measured == ["a", "a", "a", "b", "b"]
    with pytest.raises(ValueError, match="has measurements of other models or settings"):
        rounds.measure(engine_profile({"a": model(1)}).plan, kept, lambda *_: None)


def test_an_engine_that_fails_says_why_in_a_line(tmp_path):
    pytest.importorskip("xllamacpp")
    plan = engine_profile({"a": model(1)}).plan
    with pytest.raises(ChildProcessError, match=r"f32/1 of a failed: .*models/a-f32 does not exi"):
        rounds.measure_once(plan.cases[0], plan)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nothing", "--engines", "torch"], r"a preset\)='nothing' is not known; use one of"),
        (["tiny_wide", "--engines", "torch", "--types", "q9"], r"--types q9 has no type of torch"),
        (["tiny_wide"], r"MODEL needs --engines"),
        (["tiny_wide", "--engines", "torch", "--depths", "2"], r"--depths has no effect with MODE"),
        (["--types", "f32"], r"--types has no effect without MODEL"),
        (["--fits", "1GB"], r"--fits has no effect without MODEL; leave it out, or give --results"),
        (["--results", "a.json"], r"--out has no effect with --results"),
        (["tiny_wide", "--engines", "torch", "--share", "0.2"], r"--share has no effect without -"),
        (
            ["tiny_wide", "--engines", "torch", "--fits", "6GB", "--context", "9999"],
            r"--context 9999 exceeds the 2048 positions of tiny_wide; give at most 2048",
        ),
        (["tiny_wide", "--engines", "torch", "--fits", "6"], r"--fits='6' is not a number of byte"),
        (["tiny_wide", "--engines", "torch", "--fits", "6GB", "--share", "2"], r"--share 2 must b"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        run([*given, "--out", str(tmp_path / "a.json")])
    assert not list(tmp_path.iterdir())


def test_a_second_process_with_the_same_file_is_refused(tmp_path):
    out = tmp_path / "a.json"
    with sole_writer("--out", out), pytest.raises(ValueError, match="another process writes --out"):
        run([*SMALL, "--out", str(out)])
    assert not list(tmp_path.iterdir())


def test_a_type_that_a_model_cannot_have_is_refused_before_any_export(tmp_path):
    pytest.importorskip("xllamacpp")
    with pytest.raises(ValueError, match=r"tiny_wide cannot have the type q8_0 of llamacpp, whose"):
        run(["tiny_wide", "--engines", "llamacpp", "--types", "f32,q8_0", "--out",
             str(tmp_path / "a.json")])  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_the_95th_percentile_is_linear_between_values():
    assert spread_of([float(n) for n in range(21)]).p95 == pytest.approx(19.0)


def test_a_result_is_read_as_it_was_written(tmp_path):
    written = engine_profile({"a": model(1), "b": model(2)}, ms=lambda c: 1.0 * c.num_layers)
    write_result(written, tmp_path / "a.json")
    found = read_result(tmp_path / "a.json")
    assert found.to_json() == written.to_json()
    # The warm-up is left out: the median of 1.01 to 1.05.
    assert found.results[1].spread("decode_ms", 1).median == pytest.approx(2 * 1.03)


def test_ratios_are_of_processor_times_with_one_thread_only():
    one = engine_profile({"a": model(1)}, share=0.25).results[0]
    assert one.processor_share == pytest.approx(0.25)
    assert one.comparable_ms("decode", 1)[0] == pytest.approx(0.25 * 1.01)
    assert one.comparable_ms("start")[0] == pytest.approx(0.25 * (5 * 1.01 + 0.1))
    several = engine_profile({"a": model(1)}, share=2.5, threads=4).results[0]
    assert several.processor_share is None
    assert several.comparable_ms("prefill", 1)[0] == pytest.approx(10 * 1.01)
    assert several.comparable_ms("start")[0] == pytest.approx(5 * 1.01 + 0.1)


def test_damaged_results_are_refused_with_the_reason(tmp_path):
    path = tmp_path / "a.json"
    jsonschema = pytest.importorskip("jsonschema")
    from mobilellm.evaluation.engine_profile.results import FIELDS
    from mobilellm.strict_json import json_schema

    schema = json_schema(FIELDS, "results")
    good = engine_profile({"a": model(1)}).to_json()
    jsonschema.validate(json.loads(good), schema)

    def refused(change, message, *, by_schema):
        content = json.loads(good)
        change(content)
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_result(path)
        assert jsonschema.Draft202012Validator(schema).is_valid(content) != by_schema

    def result(content):
        return content["results"][0]

    refused(lambda c: c.pop("device"), r"\(device is missing\); give a file", by_schema=True)
    refused(lambda c: c.update(format=2), r"its format is 2, and 1 is required", by_schema=False)
    refused(lambda c: c.update(kind="x"), r"its kind is 'x'", by_schema=False)
    refused(lambda c: result(c)["rounds"].update(load_ms="x"), r"load_ms is \"x\"", by_schema=True)
    refused(lambda c: result(c)["rounds"]["load_ms"].pop(), r"same number of r", by_schema=False)
    refused(lambda c: result(c)["rounds"]["decode_ms"][0].pop(), r"each length", by_schema=False)
    refused(
        lambda c: result(c)["rounds"]["load_ms"].__setitem__(0, 0), r"not above", by_schema=False
    )
    refused(lambda c: c["results"].clear(), r"not those of the cases", by_schema=False)
    refused(
        lambda c: c["plan"]["cases"][0].update(more=1), r"unexpected keyword.*'more'",
        by_schema=False,
    )  # fmt: skip
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="is not JSON; give a file that"):
        read_result(path)
    with pytest.raises(FileNotFoundError, match="is not a file; give a file that"):
        read_result(tmp_path / "b.json")
