"""The verdict at equal latency from times that another device measured."""

import pytest
from simulated_engine_profile import engine_profile
from simulated_sweep import SHAPES, model, write_sweep

from mobilellm.evaluation.engine_profile.results import write_result
from mobilellm.report import compare
from mobilellm.report.analysis import analyse, with_latencies
from mobilellm.report.device_latency import read_latencies
from mobilellm.report.latency import shape_key
from mobilellm.report.latency_findings import latency_sentences
from mobilellm.report.runs import read_runs

TWO = {name: SHAPES[name] for name in ("2×208", "24×64")}
CONFIGS = {name: config for name, (config, _) in TWO.items()}


def results(path, configs=None, **options):
    write_result(engine_profile(configs or CONFIGS, **options), path)
    return path


def sentences(folder, path):
    """What the report says about equal latency, without its plots."""
    runs = read_runs([write_sweep(folder, TWO)])
    found = read_latencies(path, runs.finished)
    before = analyse(runs, sources=[folder], folder=folder)
    analysis = with_latencies(before, found)
    return latency_sentences(analysis.groups, analysis.equal_latency, found, analysis.metric)


def test_a_deep_model_that_is_slower_on_the_device_is_not_decided(tmp_path):
    path = results(tmp_path / "a.json", ms=lambda config: 0.5 * config.num_layers)
    verdict, conditions = sentences(tmp_path / "runs", path)
    assert "not decided; 24×64 is better" in verdict
    assert "takes 12 (12–12) times as long per token as 2×208" in verdict
    assert verdict.endswith("Shapes of equal latency on this device would decide.")
    assert f"1 thread of a phone, 16 tokens of context, llamacpp/f32/1 in {path}" in conditions


def test_a_deep_model_that_is_as_fast_on_the_device_is_better_too(tmp_path):
    verdict, _ = sentences(tmp_path / "runs", results(tmp_path / "a.json"))
    assert "24×64 is better too, since it takes 1.00 (1.00–1.00) times as long" in verdict


def test_a_busy_device_is_named(tmp_path):
    _, conditions = sentences(tmp_path / "runs", results(tmp_path / "a.json", share=0.5))
    assert "Other work took 50 % of the time" in conditions
    assert conditions.endswith("run.py on the device measures again.")


def test_times_are_those_after_the_longest_prompt_of_the_chosen_setting(tmp_path):
    path = results(tmp_path / "a.json", kinds=("f32", "q8_0"))
    runs = read_runs([write_sweep(tmp_path / "runs", TWO)]).finished
    with pytest.raises(ValueError, match=r"has 2 settings; choose one of llamacpp/f32/1, llamacp"):
        read_latencies(path, runs)
    with pytest.raises(ValueError, match=r"--latency-setting torch/f32/1 is not in .*; use one of"):
        read_latencies(path, runs, "torch/f32/1")
    found = read_latencies(path, runs, "llamacpp/q8_0/1")
    assert found.rounds[shape_key(CONFIGS["24×64"])] == pytest.approx(
        (1.01, 1.02, 1.03, 1.04, 1.05)
    )


def test_shapes_without_times_are_named_and_two_are_required(tmp_path):
    runs = read_runs([write_sweep(tmp_path / "runs", SHAPES)]).finished
    found = read_latencies(results(tmp_path / "a.json"), runs)
    assert "There are no times of 16×64, 4×160, 8×112 and 8×112 shared ×2." in str(found)
    one = results(tmp_path / "b.json", {"2×208": CONFIGS["2×208"], "other": model(3)})
    with pytest.raises(ValueError, match=r"has times of 1 of the 6 shapes .*, and 2 are required"):
        read_latencies(one, runs)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"latency_setting": "torch/f32/1"},
            r"--latency-setting has no effect without --latency-f",
        ),
        ({"latency_from": "a.json", "latency": True}, r"--latency-from and --latency exclude each"),
        ({"latency_from": "a.json", "latency": False}, r"--latency-from and --no-latency exclude"),
    ],
)
def test_contradicting_settings_are_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        compare([tmp_path], **given)
