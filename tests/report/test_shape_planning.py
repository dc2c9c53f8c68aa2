"""`mobilellm plan` on the runs and on the report of a simulated ladder."""

import json
import re
import shlex

import pytest
from simulated_ladder_runs import loss_of, write_ladder
from simulated_sweep import model, write_sweep

from mobilellm.commands.plan import run
from mobilellm.evaluation.device_profile import DeviceProfile, MeasuredShape
from mobilellm.report.analysis import analyse
from mobilellm.report.records import json_text
from mobilellm.report.runs import read_runs
from mobilellm.report.shape_planning import PlanRequest, make_plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_ladder(
        tmp_path_factory.mktemp("plan"), {5e4: (0, 1), 1e5: (0,), 3e5: (0,)}, held_out=False,
        overrides=["max_tokens=1", "data=text", "data.train=book.txt", "optimizer=muon", "seed=1",
                   'data.document="^ = .* = $"'],
    )  # fmt: skip


@pytest.fixture(scope="module")
def report(folder, tmp_path_factory):
    """The folder of the report, which is read faster than the runs."""
    out = tmp_path_factory.mktemp("report")
    analysis = analyse(read_runs([folder]), sources=[folder], folder=out)
    (out / "comparison.json").write_text(json_text(analysis), encoding="utf-8")
    return out


def planned(**request):
    return "\n".join(make_plan(PlanRequest(**request)).lines())


def test_plan_in_sentences(report):
    text = planned(source=report, flops=1e13)
    assert text.startswith("Recommended: ")
    assert "nats per token, with the 95 % interval of a run." in text
    assert "Outside the range" in text
    command = shlex.split(text.splitlines()[-1])
    assert command[:2] == ["mobilellm", "train"]
    assert command[2:5] == ["data=text", "data.train=book.txt", "optimizer=muon"]
    assert command[5] == 'data.document="^ = .* = $"'
    assert "seed=1" not in command
    assert "model=by_budget" in command
    assert "sequence_length=256" in command


def test_a_context(report):
    """A long context is built, and counts for the bytes, although the ladder did not train it."""
    text = planned(source=report, flops=1e13, context=4096, max_bytes=5e6)
    assert "The law holds for windows of 256 tokens, as in the ladder. A context of 4096" in text
    assert "model.max_position_embeddings=4096" in shlex.split(text.splitlines()[-1])
    assert "context" not in planned(source=report, flops=1e13, context=256)


def test_the_command_builds_the_recommended_shape(report):
    from mobilellm.hydra_app.configuration import compose, instantiate

    record = make_plan(PlanRequest(source=report, flops=1e13)).record()
    found = record["recommended"]
    words = shlex.split(found["command"])[2:]
    kept = [word for word in words if not word.startswith(("data", "optimizer"))]
    config = compose("train", kept)
    built = instantiate(config.model)
    for name in ("num_blocks", "hidden_size", "intermediate_size", "num_attention_heads"):
        assert getattr(built, name) == found["model"][name]
    assert config.max_tokens == found["tokens"]
    # The expected loss is that of the law that the losses follow.
    truth = loss_of(built.num_blocks, built.hidden_size, found["tokens"])
    assert found["loss"]["low"] < truth < found["loss"]["high"]
    assert found["expected_loss"] == pytest.approx(truth, rel=0.02)
    assert found["flops"] == pytest.approx(1e13, rel=1e-3)


def test_runs_and_report_give_the_same_plan(folder, report):
    by_runs = planned(source=folder, hours=0.01)
    assert planned(source=report, hours=0.01) == by_runs
    assert planned(source=report / "comparison.json", hours=0.01) == by_runs
    assert "about 36.0 seconds on AMD EPYC 9B14 as in the ladder" in by_runs


def test_hours_of_another_device_are_flops(report):
    hours = planned(source=report, hours=2, flops_per_second=1e9)
    assert hours == planned(source=report, flops=7.2e12)


def test_a_limit_of_latency(report, tmp_path):
    """The device profile must fit the ladder, and is named in the plan."""
    file = tmp_path / "device.json"
    file.write_text(device_profile(vocab_size=1024).to_json(), encoding="utf-8")
    text = planned(source=report, flops=1e13, max_latency_ms=0.7, latency_profile=file)
    found = re.search(r"Predicted decode latency: (.*) ms per token on a phone, 1 thread", text)
    assert 0.5 < float(found[1]) <= 0.7
    assert "considered: 1 to 4 layers and widths of 16 to 64." in text
    with pytest.raises(ValueError, match="--context 512 differs from that of the device profile"):
        planned(source=report, flops=1e13, max_latency_ms=1, latency_profile=file, context=512)
    file.write_text(device_profile(vocab_size=512).to_json(), encoding="utf-8")
    with pytest.raises(ValueError, match="vocab_size=1024 differs from that of the device profile"):
        planned(source=report, flops=1e13, max_latency_ms=1, latency_profile=file)


def device_profile(vocab_size):
    shapes = [
        MeasuredShape(
            model=model(depth, width, 3 * width, 4, 4, vocab_size=vocab_size),
            decode_ms_per_token=0.2 * depth + 1e-5 * depth * width**2,
        )
        for depth in (1, 2, 4)
        for width in (16, 32, 64)
    ]
    return DeviceProfile(
        accelerator="cpu", device="a phone", threads=1, context=64, decode_tokens=8, rounds=3,
        versions={}, command="", shapes=tuple(shapes),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "the budget is --flops or --hours, and neither is given"),
        ({"flops": 1e12, "hours": 1}, "and both are given; give one of them"),
        ({"flops": 0}, "--flops 0 must be a number above 0"),
        ({"flops": 1e12, "flops_per_second": 1e9}, "--flops-per-second is for --hours"),
        ({"flops": 1e12, "bits": 4}, "--bits is for --max-bytes; leave it out"),
        ({"flops": 1e12, "bits": 64, "max_bytes": 1e6}, "--bits 64 must be between 1 and 32"),
        ({"flops": 1e12, "max_latency_ms": 2}, "--max-latency-ms and --latency-profile belong tog"),
        ({"flops": 1e12, "max_bytes": 10}, "no shape meets max-bytes=10 at 16 bits"),
        ({"flops": 1e12, "context": -3}, "--context -3 must be a number above 0"),
    ],
)
def test_refusals(report, request_, message):
    with pytest.raises(ValueError, match=message):
        planned(source=report, **request_)


def test_folders_without_a_law(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; give a ladder's folder"):
        planned(source=tmp_path / "nowhere", flops=1e12)
    sweep = write_sweep(tmp_path / "sweep")
    with pytest.raises(ValueError, match=r"sweep is no ladder: its 6 configurations are not of"):
        planned(source=sweep, flops=1e12)
    two = write_ladder(tmp_path / "two", {5e4: (0,), 1e5: (0,)}, held_out=False)
    with pytest.raises(ValueError, match=r"2 sizes \(body parameters\) instead of at least 3; a l"):
        planned(source=two, flops=1e12)
    (tmp_path / "comparison.json").write_text('{"law": null}', encoding="utf-8")
    with pytest.raises(ValueError, match="the runs of this report are no ladder"):
        planned(source=tmp_path, flops=1e12)
    (tmp_path / "comparison.json").write_text("[", encoding="utf-8")
    with pytest.raises(ValueError, match="is not a report of mobilellm compare"):
        planned(source=tmp_path, flops=1e12)


def test_the_command(report, capsys):
    run([str(report), "--flops", "1e13", "--format", "json"])
    assert json.loads(capsys.readouterr().out)["recommended"]["model"]["vocab_size"] == 1024
    run([str(report), "--flops", "1e13"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Recommended: ")
    assert lines[-1].startswith("  mobilellm train "), "the command is one line"
