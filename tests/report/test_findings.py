"""The outcome in words."""

from pathlib import Path

import pytest
from simulated_sweep import SHAPES, model, write_sweep

from mobilellm.report.analysis import analyse
from mobilellm.report.findings import NO_METRIC, question
from mobilellm.report.runs import read_runs


def analysed(folder, title=None):
    return analyse(read_runs([folder]), sources=[folder], folder=Path("unused"), title=title)


def two(deep, wide):
    return {"wide": (SHAPES["2×208"][0], wide), "deep": (SHAPES["24×64"][0], deep)}


def test_deep_is_better(tmp_path):
    found = analysed(write_sweep(tmp_path, two(4.1, 4.3), noise=0.001))
    assert found.verdict.startswith("Deepest against widest: 24×64 is better than 2×208 by 0.")
    assert found.verdict.endswith(" nats per token.") and " ± 0.0" in found.verdict
    assert (
        "The runs are too short to settle the question: 1.00M training tokens are"
        in (found.findings[-1])
    )


def test_deep_is_worse(tmp_path):
    found = analysed(write_sweep(tmp_path, two(4.3, 4.1), noise=0.001))
    assert found.verdict.startswith("Deepest against widest: 24×64 is worse than 2×208 by 0.")
    assert found.findings[1].startswith("Lowest loss: 2×208 (4.1")
    assert found.findings[1].endswith("better than 24×64.")


def test_no_difference(tmp_path):
    found = analysed(write_sweep(tmp_path, two(4.2, 4.2), noise=0.01, start=3))
    assert "24×64 and 2×208 are not distinguishable (difference " in found.verdict


def test_too_few_seeds(tmp_path):
    found = analysed(write_sweep(tmp_path, two(4.1, 4.3), seeds=(0, 1)))
    assert found.verdict == (
        "Deepest against widest: 24×64 against 2×208: no verdict with 2 common seeds; at least 3 "
        "are needed."
    )


def test_sharing_is_compared_with_its_twin(tmp_path):
    found = analysed(write_sweep(tmp_path))
    (text,) = [sentence for sentence in found.findings if sentence.startswith("Sharing: ")]
    assert text.startswith("Sharing: 8×112 shared ×2 ") and "8×112" in text
    assert text.endswith("with the same stored blocks and 1.8 times the FLOPs.")
    # A shared model runs more layers than any other, but is not the deep end of the range.
    assert found.verdict.startswith("Deepest against widest: 24×64 ")


def test_each_budget_has_its_own_sentence(tmp_path):
    large = {
        "a": (model(4, 384, 960, 24, 8), 3.9),
        "b": (model(24, 160, 360, 10, 5), 3.8),
    }
    found = analysed(write_sweep(tmp_path, two(4.1, 4.3) | large, noise=0.001))
    assert "at 1.01M body parameters: 24×64 is better than 2×208" in found.findings[0]
    assert "at 6.00M body parameters: 24×160 is better than 4×384" in found.findings[1]


def test_runs_of_equal_depth_ask_another_question(tmp_path):
    shapes = {"a": (model(), 4.2), "b": (model(feed_forward="relu", ffn=336), 4.3)}
    found = analysed(write_sweep(tmp_path, shapes, noise=0.001))
    assert question(found.groups, found.metric) == ("Which configuration reaches the lowest loss?")
    assert found.verdict.startswith("Lowest loss: 8×112 (4.2")


def test_depth_is_compared_among_models_of_one_kind(tmp_path):
    """The paper's steps: the deep and the wide model that differ in nothing else."""
    steps = {
        "1": (model(2, 208, 792, 13, 13, tie_word_embeddings=False, feed_forward="relu"), 4.4),
        "2": (model(2, 208, 528, 13, 13, tie_word_embeddings=False), 4.3),
        "3": (model(24, 64, 152, 4, 2, tie_word_embeddings=False), 4.2),
        "4": (model(24, 64, 152, 4, 2), 4.1),
    }
    found = analysed(write_sweep(tmp_path, steps, noise=0.001))
    assert found.verdict.startswith(
        "Deepest against widest: 24×64 untied is better than 2×208 by 0."
    )


def test_only_one_shape(tmp_path):
    found = analysed(write_sweep(tmp_path, {"a": (model(), 4.2)}))
    assert found.verdict.startswith("Only one configuration, 8×112: 4.2")
    assert found.verdict.endswith(" nats per token; there is nothing to compare.")


def test_long_runs_have_no_caveat(tmp_path):
    found = analysed(write_sweep(tmp_path, tokens=25_000_000))
    assert not any("So few tokens" in sentence for sentence in found.findings)


def test_no_metric(tmp_path):
    write_sweep(tmp_path / "a", {"a": SHAPES["2×208"]})
    hashes = {"data": "x", "tokenizer": "y", "train": "z", "validation": "w"}
    write_sweep(tmp_path / "b", {"b": SHAPES["24×64"]}, hashes=hashes, val_bits_per_byte=None)
    found = analysed(tmp_path)
    assert found.verdict == NO_METRIC and found.pairs == () and found.metric is None


def test_another_tokenizer_is_compared_by_bits_per_byte(tmp_path):
    write_sweep(tmp_path / "a", {"a": SHAPES["2×208"]}, val_bits_per_byte=1.9)
    hashes = {"data": "d" * 64, "tokenizer": "y", "train": "z", "validation": "w"}
    write_sweep(tmp_path / "b", {"b": SHAPES["24×64"]}, hashes=hashes, val_bits_per_byte=1.7)
    found = analysed(tmp_path)
    assert found.verdict == (
        "Deepest against widest: 24×64 is better than 2×208 by 0.200 ± 0.000 bits per byte."
    )


def test_titles(tmp_path):
    write_sweep(tmp_path / "a", {"a": SHAPES["2×208"]})
    assert analysed(tmp_path).title == "Depth vs width"
    assert analysed(tmp_path, title="Mine").title == "Mine"
    write_sweep(tmp_path / "b", {"b": SHAPES["24×64"]}, experiment="layer_sharing")
    assert analysed(tmp_path).title == "Depth vs width and layer sharing"


@pytest.mark.parametrize(("first", "second"), [("2×208", "24×64"), ("24×64", "2×208")])
def test_pairs_are_found_from_either_side(tmp_path, first, second):
    found = analysed(write_sweep(tmp_path, two(4.1, 4.3), noise=0.001))
    pair = found.pair(first, second)
    assert (pair.first, pair.second) == (first, second)
    assert pair.verdict == ("better" if first == "24×64" else "worse")
    bits = found.difference(pair, "val_bits_per_byte")
    assert bits.mean == pytest.approx(pair.difference.mean / 3.1 / 0.6931471805599453)
    assert found.pair(first, first) is None
