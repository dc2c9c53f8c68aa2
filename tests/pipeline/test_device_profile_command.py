"""`mobilellm device-profile`, and runs whose shape follows from its file."""

import json
from pathlib import Path

import pytest
import torch
from simulated_profile import true_time, write_profile

from mobilellm.commands.device_profile import run
from mobilellm.evaluation.device_profile import read_profile
from mobilellm.hydra_app.configuration import compose, plain_config
from mobilellm.pipeline.device_profile import ProfileGrid, cost_of_depth
from mobilellm.pipeline.explain import explain_config
from mobilellm.pipeline.identity import config_hash
from mobilellm.search.latency import LatencyModel

FEW = ["--depths", "1,4", "--widths", "16,64,512", "--vocab-size", "64", "--context", "8",
       "--tokens", "4", "--rounds", "3"]  # fmt: skip


def test_every_shape_of_the_grid_is_measured_and_reported(tmp_path, capsys):
    out = tmp_path / "here.json"
    threads = torch.get_num_threads()
    run([*FEW, "--out", str(out), "--threads", "1"])
    profile = read_profile(out)
    sizes = [(shape.model.num_layers, shape.model.hidden_size) for shape in profile.shapes]
    assert sizes == [(1, 16), (1, 64), (1, 512), (4, 16), (4, 64), (4, 512)]
    assert (profile.threads, profile.context, profile.rounds) == (1, 8, 3)
    assert torch.get_num_threads() == threads
    printed = " ".join(capsys.readouterr().out.split())
    assert f"{profile.device}, 1 thread, context of 8 tokens" in printed
    assert "median error" in printed and "each of 6 shapes predicted from the others" in printed
    assert "Prefill: " in printed and "Decode: " in printed
    for one in profile.shapes:
        assert 0 < one.decode_ms_per_token <= one.decode_ms_p95
        assert 0 < one.prefill_ms <= one.prefill_ms_p95


def test_shared_blocks_are_measured_too_in_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = tmp_path / "here.json"
    run([*FEW, "--out", str(out), "--threads", "1", "--block-repeats", "1,2"])
    sizes = [(s.model.num_blocks, s.model.num_layers) for s in read_profile(out).shapes[:2]]
    assert sizes == [(1, 1), (1, 2)]
    printed = capsys.readouterr().out
    assert "1×16 ×2" in printed and "predicted" in printed
    assert "…" not in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 80


def test_the_price_of_depth_is_said_for_shapes_of_about_equal_size(tmp_path):
    path = write_profile(tmp_path / "a.json", depths=(2, 8, 16), widths=(64, 96, 128, 192))
    sentence = cost_of_depth(LatencyModel(read_profile(Path(path))))
    assert "16×64 takes" in sentence and "as long per token as 2×192" in sentence
    assert "each layer costs 150 µs" in sentence
    path = write_profile(tmp_path / "b.json", depths=(2, 3), widths=(64, 256, 512))
    assert cost_of_depth(LatencyModel(read_profile(Path(path)))) is None


def test_a_profile_is_not_overwritten(tmp_path):
    out = tmp_path / "here.json"
    out.write_text("kept", encoding="utf-8")
    with pytest.raises(ValueError, match=r"exists, and is not overwritten, because runs may have"):
        run([*FEW, "--out", str(out)])
    assert out.read_text(encoding="utf-8") == "kept"
    with pytest.raises(ValueError, match=r"here.json is a file, not a folder; give another path"):
        run([*FEW, "--out", str(out / "inner.json")])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"depths": (4, 4)}, r"--depths 4,4 has fewer than two different values, which do not sh"),
        ({"depths": (2, 4), "widths": (16, 32)}, r"make 4 shapes, and 6 are required; give more"),
        ({"rounds": 0}, r"rounds=0 must be a whole number of at least 1"),
        ({"device": "phone"}, r"device='phone' is not known; use one of"),
        ({"device": "mps"}, r"device=mps is not available here; use --device cpu"),
    ],
)
def test_grids_that_say_nothing_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        ProfileGrid(**given)


def matched(path, *overrides):
    return compose(
        "train",
        ["experiment=matched_latency", "model.vocab_size=512", "model.num_blocks=8",
         f"model.latency_profile={path}", *overrides],
    )  # fmt: skip


def test_the_identity_of_a_run_follows_the_content_of_its_profile(tmp_path):
    first, other = (
        write_profile(tmp_path / name, widths=(32, 64, 128, 256)) for name in ("a.json", "b.json")
    )
    before = config_hash(plain_config(matched(first)))
    assert config_hash(plain_config(matched(other))) == before
    named = "model.latency_device=here"
    assert config_hash(plain_config(matched(other, named))) == before
    write_profile(
        tmp_path / "b.json", widths=(32, 64, 128, 256), times=lambda m: 1.1 * true_time(m)
    )
    assert config_hash(plain_config(matched(other))) != before


def test_explain_names_the_profile(tmp_path):
    path = write_profile(tmp_path / "a.json", widths=(32, 64, 128, 256))
    config = compose(
        "explain",
        ["model=by_budget", "model.match=latency", "model.budget=2.5", "model.vocab_size=512",
         "model.num_blocks=8", f"model.latency_profile={path}"],
    )  # fmt: skip
    explained = explain_config(config)["budget"]
    assert abs(explained["deviation"]) < 0.02
    assert explained["unit"] == "ms per token"
    assert explained["profile"]["hash"] == read_profile(tmp_path / "a.json").content_hash
    json.dumps(explained)


def test_a_run_records_what_was_matched(tiny_run, tmp_path):
    path = write_profile(tmp_path / "a.json", depths=(1, 2, 4), widths=(16, 32, 64))
    summary = tiny_run(
        "model=by_budget", "model.match=latency", "model.budget=0.55", "model.num_blocks=2",
        "model.vocab_size=512", f"model.latency_profile={path}", "max_steps=1",
    )  # fmt: skip
    assert summary["matched"]["match"] == "latency"
    assert summary["matched"]["budget"] == 0.55
    assert abs(summary["matched"]["deviation"]) < 0.02
