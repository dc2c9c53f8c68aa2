"""A verdict is given only between runs whose losses are of one kind."""

import json
from pathlib import Path

import pytest
from simulated_sweep import SHAPES, model, summary, write_run, write_sweep

from mobilellm.report.analysis import analyse
from mobilellm.report.ancestry import Start, start_from
from mobilellm.report.comparability import comparable_subsets
from mobilellm.report.runs import read_runs

MASK = {"data": {"dir": "prepared", "document_mask": True}}
OTHER_TOKENIZER = {"data": "d" * 64, "tokenizer": "t" * 64, "train": "z", "validation": "w"}


def arm(folder, loss, *, config=None, blocks=8, **changes):
    """Three seeds of one arm, the difference to others the same for each."""
    for seed in range(3):
        shape = model(blocks, 112)
        facts = summary(shape, seed=seed, loss=loss + 0.01 * seed + 1e-4 * seed**2, **changes)
        write_run(folder / f"seed{seed}", facts, config=config)


def analysed(folder):
    return analyse(read_runs([folder]), sources=[folder], folder=Path("unused"))


def verdict_of(tmp_path, *, config=None, **changes):
    """The one pair of an ordinary arm and one with changes, its verdict and reason."""
    arm(tmp_path / "a", 4.2)
    arm(tmp_path / "b", 4.1, config=config, **changes)
    found = analysed(tmp_path)
    (pair,) = found.pairs
    return found, pair.verdict, pair.reason


@pytest.mark.parametrize(
    ("config", "changes", "reason", "kind"),
    [
        (MASK, {}, "different document mask", "document mask"),
        ({"validation_tokens": 8192}, {}, "different validation_tokens", "validation_tokens"),
        ({}, {"sequence_length": 128}, "different sequence_length", "sequence_length"),
        (
            {},
            {"hashes": {"data": "d" * 64, "tokenizer": "e" * 64, "train": "a", "validation": "c"}},
            "different validation text",
            "data",
        ),
        (
            {},
            {"hashes": OTHER_TOKENIZER | {"data": "f"}},
            "different validation text",
            "data",
        ),
        ({"init_from": "elsewhere/model"}, {}, "different initial weights", "initial weights"),
    ],
)
def test_no_verdict_where_the_losses_are_not_of_one_kind(tmp_path, config, changes, reason, kind):
    found, verdict, why = verdict_of(tmp_path, config=config, **changes)
    assert (verdict, why) == ("not comparable", reason)
    assert found.pairs[0].difference is None and found.pairs[0].p_value is None
    assert found.verdict == f"No verdict: no two of the 2 configurations are comparable ({reason})."
    grave = [caution for caution in found.cautions if caution.is_serious]
    assert any(caution.kind == kind and "no verdict" in caution.message for caution in grave)


def test_other_tokenizers_are_compared_by_bits_per_byte_of_one_text(tmp_path):
    found, verdict, _ = verdict_of(tmp_path, hashes=OTHER_TOKENIZER, val_bits_per_byte=1.5)
    assert found.metric == "val_bits_per_byte" and verdict in ("better", "worse")
    # 4.21 nats of 3.1 bytes a token are 1.959 bits per byte.
    assert abs(found.pairs[0].difference.mean) == pytest.approx(1.959 - 1.5, abs=1e-3)


def test_windows_of_another_tokenizer_are_another_sample_of_the_text(tmp_path):
    limit = {"validation_tokens": 8192}
    arm(tmp_path / "a", 4.2, config=limit)
    arm(tmp_path / "b", 4.1, config=limit, hashes=OTHER_TOKENIZER)
    found = analysed(tmp_path)
    assert any(c.is_serious and "validation_tokens=null" in c.message for c in found.cautions)


def test_a_verdict_among_those_that_compare_and_none_on_the_rest(tmp_path):
    arm(tmp_path / "a", 4.2)
    arm(tmp_path / "b", 4.1, blocks=12)
    arm(tmp_path / "c", 3.0, config=MASK, blocks=16)
    found = analysed(tmp_path)
    assert found.findings[0].startswith("Lowest loss: 12×112 (4.1")
    assert found.findings[0].endswith("better than 8×112.")
    assert found.findings[1] == (
        "Not comparable with any other configuration: 16×112 (different document mask)."
    )
    assert [len(group) for group in comparable_subsets(found.groups)] == [2, 1]


def test_a_run_without_config_is_taken_to_be_like_the_others(tmp_path):
    arm(tmp_path / "a", 4.2, config=MASK)
    arm(tmp_path / "b", 4.1, blocks=12)
    for file in (tmp_path / "b").rglob("config.yaml"):
        file.unlink()
    assert analysed(tmp_path).pairs[0].verdict == "worse"


def parent(folder, tokens, **changes):
    """A run that others begin from."""
    write_run(folder, summary(model(), tokens=tokens), config=changes)
    (folder / "model").mkdir()
    return str(folder / "model")


def test_tokens_behind_the_starting_weights_count(tmp_path):
    given = parent(tmp_path / "parents" / "base", 5_000_000)
    arm(tmp_path / "runs" / "a", 4.2)
    arm(tmp_path / "runs" / "b", 4.1, config={"init_from": given})
    found = analysed(tmp_path / "runs")
    assert found.pairs[0].verdict == "not comparable"
    messages = [caution.message for caution in found.cautions if caution.is_serious]
    assert (
        "the numbers of training tokens differ (including those of the initial "
        "weights): 8×112 from scratch: 1.00M; 8×112 from base: 6.00M" in messages
    )
    assert any("8×112 from base: base (5.00M tokens before)" in text for text in messages)


def test_as_much_training_in_all_compares(tmp_path):
    given = parent(tmp_path / "parents" / "base", 600_000)
    arm(tmp_path / "runs" / "a", 4.2)
    arm(tmp_path / "runs" / "b", 4.1, tokens=400_000, config={"init_from": given})
    found = analysed(tmp_path / "runs")
    assert found.pairs[0].verdict != "not comparable"
    assert not any(caution.kind == "tokens" for caution in found.cautions)


def test_one_start_compares_whatever_is_behind_it(tmp_path):
    given = {"init_from": "downloaded/model"}
    arm(tmp_path / "a", 4.2, config=given)
    arm(tmp_path / "b", 4.1, config=given | {"gradient_clip_norm": 0.5})
    found = analysed(tmp_path)
    assert found.pairs[0].verdict in ("better", "worse")
    assert not any("So few tokens" in text for text in found.findings)


def test_the_training_behind_a_folder(tmp_path):
    base = parent(tmp_path / "base", 3000)
    assert start_from(None) == Start()
    assert start_from(base) == Start(str(tmp_path / "base"), None, 3000)
    # A run of an earlier version, which began from the former.
    second = parent(tmp_path / "second", 500, init_from=base)
    assert start_from(second).tokens == 3500 and start_from(second).origin is None
    # Compressed, which takes no training.
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "compression.json").write_text(
        json.dumps({"source": second}), encoding="utf-8"
    )
    assert start_from(str(tmp_path / "small")).tokens == 3500
    # Something of which nothing is known.
    third = parent(tmp_path / "third", 70, init_from=str(tmp_path / "hub"))
    found = start_from(third)
    assert (found.origin, found.tokens) == (str(tmp_path / "hub"), 70)


def test_a_circle_of_parents_ends(tmp_path):
    folder = tmp_path / "a"
    write_run(folder, summary(model(), tokens=10), config={"init_from": str(folder)})
    assert start_from(str(folder)).origin is not None


def test_the_summary_knows_best_where_a_run_began(tmp_path):
    start = {"folder": "/gone/base", "origin": None, "tokens": 9_000_000}
    arm(tmp_path / "a", 4.2)
    arm(tmp_path / "b", 4.1, config={"init_from": "/gone/base/model"}, starts_from=start)
    texts = [caution.message for caution in analysed(tmp_path).cautions]
    assert any("base (9.00M tokens before)" in text for text in texts)


def test_a_shared_shape_has_a_twin_that_differs_in_nothing_else(tmp_path):
    shapes = {
        "shared": (model(block_repeats=2), 4.1),
        "plain": (model(), 4.2),
        "untied": (model(tie_word_embeddings=False), 4.0),
    }
    found = analysed(write_sweep(tmp_path, shapes, noise=0.001))
    (text,) = [sentence for sentence in found.findings if sentence.startswith("Sharing")]
    assert text.startswith("Sharing: 8×112 shared ×2 is better than 8×112 by")


def test_depth_is_not_compared_across_distillation(tmp_path):
    deep, wide = SHAPES["24×64"], SHAPES["2×208"]
    write_sweep(tmp_path / "a", {"wide": wide})
    node = {"_target_": "x.DistillationCallback", "losses": {"forward_kl": {"weight": 1}}}
    for seed in range(3):
        facts = summary(deep[0], seed=seed, loss=4.0 + 0.01 * seed)
        config = {"distillation": {"distillation": node}}
        write_run(tmp_path / "b" / str(seed), facts, config=config)
    found = analysed(tmp_path)
    assert found.verdict.startswith("Lowest loss: ")
    assert any(caution.kind == "distillation" for caution in found.cautions)
