"""The command coordinate-check: what it prints and writes, and what it refuses."""

import json

import pytest
from command_process import run_command

from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline.coordinate_check import check_coordinates, plan_check, verdict
from mobilellm.search.coordinate_check import Spread

SMALL = ["widths=[16,32]", "depths=[1,2]", "width=16", "depth=2", "steps=1", "seeds=1",
         "tokens_per_step=32", "sequence_length=16", "parametrization.base_width=16",
         "parametrization.base_depth=2"]  # fmt: skip


def composed(folder, *overrides):
    return compose("coordinate_check", [*SMALL, f"out={folder}", *overrides])


def test_data_and_plot_are_written_and_a_verdict_is_printed(tmp_path, capsys):
    check_coordinates(composed(tmp_path / "check"))
    rows = json.loads((tmp_path / "check/coordinate_check.json").read_text("utf-8"))["measurements"]
    assert {row["parametrization"] for row in rows} == {"standard", "completep"}
    assert len(rows) == 2 * 4 * 2
    assert (tmp_path / "check/coordinate_check.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert "completep, over width: " in printed and "standard, over depth: " in printed
    check_coordinates(composed(tmp_path / "check", "compare_with_standard=false"))
    assert "standard" not in (tmp_path / "check/coordinate_check.json").read_text("utf-8")


@pytest.mark.parametrize("size", [1.1, 1.3])
def test_the_verdict_names_what_drifts(size):
    spread = Spread(axis="width", quantity="logits", deviation=size - 1, growth=size)
    expected = {
        1.1: "flat, at most so far from the mean: logits 10 %",
        1.3: "drifts from the smallest to the largest: logits x 1.3",
    }
    assert verdict([spread], 0.2) == expected[size]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("widths=[20]", "hidden_size=20 must be divisible by head_dim=16"),
        ("parametrization.base_width=24", "parametrization: base_width=24 gives 1.5 attention"),
        (
            "tokens_per_step=40",
            "tokens_per_step=40 must be a multiple of sequence_length=16; use .*=32",
        ),
        (
            "model.hidden_size=128",
            "model.hidden_size=128 has no effect, .*; use width=128, or widths",
        ),
        ("model.num_blocks=8", "model.num_blocks=8 has no effect, .*; use depth=8, or depths"),
        ("model.vocab_size=100", "model.vocab_size=100 must be at least 256, since the tokens"),
        ("model.max_position_embeddings=8", "sequence_length=16 must be at most model.max_pos"),
        ("text=nothing.txt", "text=nothing.txt is not a file; give a text file, or null"),
        ("initialization.std=-1", "initialization: std=-1 must be"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_trained(tmp_path, override, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        plan_check(composed(tmp_path / "new", override))


def test_other_files_are_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"never overwritten; give a new folder, or that of an"):
        plan_check(composed(tmp_path))
    with pytest.raises(ValueError, match=r"notes.txt is a file, not a folder; give another path"):
        plan_check(composed(tmp_path / "notes.txt"))


def test_the_command_exits_with_2_for_a_base_shape_it_cannot_scale_from(tmp_path):
    done = run_command(
        "coordinate-check", *SMALL, f"out={tmp_path}/new", "parametrization.base_depth=3",
        "model.block_repeats=2",
    )  # fmt: skip
    assert done.returncode == 2
    assert "base_depth=3 counts applications" in done.stderr and "use 2 or 4" in done.stderr
    assert "Traceback" not in done.stderr
