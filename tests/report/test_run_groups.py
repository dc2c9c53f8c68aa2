"""Runs that differ only in the seed are one shape; names are short and tell shapes apart."""

import pytest
from simulated_sweep import SHAPES, model, summary, write_run, write_sweep

from mobilellm.report.run_groups import group_runs
from mobilellm.report.runs import read_runs


def labels(tmp_path, *configs, **changes):
    for index, config in enumerate(configs):
        write_run(tmp_path / str(index), summary(config, **changes))
    return [shape.label for shape in group_runs(read_runs([tmp_path]).finished)[0]]


def test_seeds_of_one_configuration_are_one_shape(tmp_path):
    shapes, left_out = group_runs(read_runs([write_sweep(tmp_path / "s")]).finished)
    assert sorted(shape.label for shape in shapes) == sorted(SHAPES)
    assert all(shape.seeds == (0, 1, 2) for shape in shapes) and not left_out
    depths = [shape.model.num_layers for shape in shapes]
    assert depths == sorted(depths)


def test_summaries_over_seeds(tmp_path):
    for seed, (loss, speed) in enumerate([(4.0, 10), (4.2, 30), (4.4, 20)]):
        write_run(
            tmp_path / str(seed), summary(model(), seed=seed, loss=loss, tokens_per_second=speed)
        )
    ((shape,), _) = group_runs(read_runs([tmp_path]).finished)
    assert shape.interval("val_loss").mean == pytest.approx(4.2)
    assert shape.losses("val_loss") == {0: 4.0, 1: 4.2, 2: 4.4}
    assert shape.median("tokens_per_second") == 20 and shape.median("no_such") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"max_tokens": 2_000_000},
        {"learning_rate": 0.004},
        {"optimizer": "muon"},
        {"precision": "bf16-mixed"},
        {"sequence_length": 128},
        {"tokens_per_step": 4096},
        {"hashes": {"data": "x", "tokenizer": "e", "train": "a", "validation": "b"}},
    ],
)
def test_what_makes_another_shape(tmp_path, changes):
    write_run(tmp_path / "a", summary(model()))
    write_run(tmp_path / "b", summary(model(), seed=1) | changes)
    found = [shape.label for shape in group_runs(read_runs([tmp_path]).finished)[0]]
    assert len(found) == len(set(found)) == 2


@pytest.mark.parametrize(
    "changes",
    [{"device": "other"}, {"threads": 9}, {"wall_seconds": 1.0}, {"versions": {}}, {"git": {}}],
)
def test_what_does_not(tmp_path, changes):
    write_run(tmp_path / "a", summary(model()))
    write_run(tmp_path / "b", summary(model(), seed=1) | changes)
    assert len(group_runs(read_runs([tmp_path]).finished)[0]) == 1


def test_settings_of_the_configuration_count_and_places_do_not(tmp_path):
    write_run(tmp_path / "a", summary(model()))
    write_run(tmp_path / "b", summary(model(), seed=1), config={"output_dir": "elsewhere"})
    write_run(tmp_path / "c", summary(model(), seed=2), config={"gradient_clip_norm": 0.5})
    found = [shape.label for shape in group_runs(read_runs([tmp_path]).finished)[0]]
    assert sorted(found) == [
        "8×112 gradient_clip_norm=0.5",
        "8×112 gradient_clip_norm=1.0",
    ]


def test_names_say_only_what_tells_apart(tmp_path):
    found = labels(
        tmp_path,
        model(12, 96, heads=6, groups=6),
        model(8, 112),
        model(8, 112, feed_forward="relu", ffn=336),
        model(8, 112, tie_word_embeddings=False),
        model(8, 112, block_repeats=2),
        model(8, 112, block_repeats=2, layer_sharing="repeat_all"),
    )
    assert sorted(found) == sorted(
        [
            "12×96", "8×112", "8×112 relu", "8×112 untied",
            "8×112 shared ×2 immediate", "8×112 shared ×2 repeat_all",
        ]
    )  # fmt: skip


def test_names_of_heads_widths_and_rates(tmp_path):
    assert labels(tmp_path / "a", model(heads=7, groups=7), model(heads=6, groups=2)) == [
        "8×112 7h7kv", "8×112 6h2kv",
    ]  # fmt: skip
    assert labels(tmp_path / "b", model(ffn=224), model(ffn=(224,) * 7 + (300,))) == [
        "8×112 ffn 224", "8×112 ffn 224–300",
    ]  # fmt: skip
    write_run(tmp_path / "c" / "x", summary(model()))
    write_run(tmp_path / "c" / "y", summary(model(), learning_rate=0.004))
    assert labels(tmp_path / "c") == ["8×112 lr 0.002", "8×112 lr 0.004"]


def test_a_rate_that_follows_from_another_setting_is_not_named(tmp_path):
    """As the recipe rule's, which depends on the optimizer and on the size of a step."""
    names = {"x": ("muon", 0.02, 512), "y": ("adamw", 0.004, 512), "z": ("adamw", 0.008, 2048)}
    for folder, (optimizer, rate, step) in names.items():
        facts = summary(model(), learning_rate=rate, tokens_per_step=step, optimizer=optimizer)
        write_run(tmp_path / folder, facts)
    assert labels(tmp_path) == [
        "8×112 adamw batch 512", "8×112 adamw batch 2.05k", "8×112 muon",
    ]  # fmt: skip


def test_the_last_of_equal_runs_is_kept_and_the_others_are_named(tmp_path):
    write_run(tmp_path / "new", summary(model(), finished_at="2026-11-23T00:00:00"))
    write_run(tmp_path / "old", summary(model(), finished_at="2026-11-22T00:00:00"))
    ((shape,), (left_out,)) = group_runs(read_runs([tmp_path]).finished)
    assert [run.folder.name for run in shape.runs] == ["new"]
    assert left_out.folder.name == "old" and left_out.status == "duplicate"
    assert left_out.reason == f"same configuration and seed as {tmp_path / 'new'}"
