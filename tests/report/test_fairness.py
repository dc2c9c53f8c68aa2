"""Each confound is named, and a fair comparison draws no grave warning."""

import pytest
from simulated_sweep import SHAPES, model, write_sweep

from mobilellm.report.comparability import choose_metric
from mobilellm.report.fairness import cautions
from mobilellm.report.run_groups import group_runs
from mobilellm.report.runs import read_runs

TWO = {name: SHAPES[name] for name in ("2×208", "24×64")}
OTHER = {"data": "x" * 64, "tokenizer": "e" * 64, "train": "y" * 64, "validation": "z" * 64}


def read(folder):
    return group_runs(read_runs([folder]).finished)[0]


def found(shapes, kind, *, is_serious=None):
    return [
        caution.message
        for caution in cautions(shapes)
        if caution.kind == kind and is_serious in (None, caution.is_serious)
    ]


def pair(tmp_path, **changes):
    """Two shapes with three seeds; the second with changes."""
    write_sweep(tmp_path / "a", {"2×208": SHAPES["2×208"]})
    write_sweep(tmp_path / "b", {"24×64": SHAPES["24×64"]}, **changes)
    return read(tmp_path)


def test_a_fair_sweep_has_no_grave_warning(tmp_path):
    shapes = read(write_sweep(tmp_path / "s"))
    assert choose_metric(shapes) == "val_loss"
    assert [caution.kind for caution in cautions(shapes) if caution.is_serious] == []
    assert found(shapes, "budget") == []


def test_no_equal_budget(tmp_path):
    shapes = {"a": (model(8, 112, 224), 4.2), "b": (model(8, 112, 264), 4.2)}
    (text,) = found(read(write_sweep(tmp_path, shapes)), "budget", is_serious=True)
    assert text.startswith("no budget is equal within ±2 %: body parameters 1.01M–1.11M (±5.")


def test_shapes_of_two_budgets(tmp_path):
    shapes = TWO | {"big": (model(8, 224, 600, 14, 14), 4.0)}
    (text,) = found(read(write_sweep(tmp_path, shapes)), "budget", is_serious=True)
    assert text == "configurations of different budgets are compared: 2×208 and 24×64; 8×224"


def test_other_tokens_windows_and_batches(tmp_path):
    shapes = pair(tmp_path, tokens=1_500_000, sequence_length=128, tokens_per_step=4096)
    assert found(shapes, "tokens", is_serious=True) == [
        "the numbers of training tokens differ: 2×208: 1.00M; 24×64: 1.50M"
    ]
    assert found(shapes, "sequence_length") == [
        "sequence_length differs (in tokens): 2×208: 256; 24×64: 128; the validation windows "
        "differ, so no verdict is given between them"
    ]
    assert found(shapes, "tokens_per_step") == [
        "tokens_per_step differs (in tokens): 2×208: 2.05k; 24×64: 4.10k"
    ]


def test_other_text(tmp_path):
    shapes = pair(tmp_path, hashes=OTHER)
    texts = found(shapes, "data", is_serious=True)
    assert len(texts) == 3
    assert texts[0] == (
        "the validation text differs (2×208: bbbbbbbb; 24×64: zzzzzzzz): no verdict is given "
        "between them"
    )
    assert choose_metric(shapes) == "val_loss"


def test_another_tokenizer_of_the_same_text(tmp_path):
    hashes = OTHER | {"data": "d" * 64, "tokenizer": "t" * 64}
    shapes = pair(tmp_path, hashes=hashes)
    (text,) = found(shapes, "data")
    assert text.startswith("the tokenizer differs (2×208: eeeeeeee; 24×64: tttttttt): nats per")
    assert choose_metric(shapes) == "val_bits_per_byte"


def test_another_tokenizer_without_bits_per_byte(tmp_path):
    hashes = OTHER | {"tokenizer": "t" * 64}
    assert choose_metric(pair(tmp_path, hashes=hashes, val_bits_per_byte=None)) is None


def test_one_rate_for_all_widths(tmp_path):
    shapes = read(write_sweep(tmp_path, learning_rates_tried=None))
    assert found(shapes, "learning rate") == [
        "no other learning rate was tried for any configuration: a single rate (0.002) for all "
        "widths favours some of them; train with learning_rate_probe=true"
    ]


def test_a_rate_not_tried_for_one_shape(tmp_path):
    shapes = pair(tmp_path, learning_rates_tried=None)
    assert found(shapes, "learning rate") == [
        "no other learning rate was tried for 24×64; train with learning_rate_probe=true"
    ]


@pytest.mark.parametrize("rate", [0.001, 0.004])
def test_a_rate_at_the_edge(tmp_path, rate):
    (text,) = found(pair(tmp_path, learning_rate=rate), "learning rate", is_serious=True)
    assert text == (
        f"the learning rate is the lowest or highest of those tried: 24×64 ({rate} of "
        "0.001–0.004); a better one may lie outside, so widen learning_rate_probe_factors"
    )


def test_rates_tried_as_runs_of_their_own(tmp_path):
    for rate, loss in ((0.001, 4.3), (0.002, 4.2), (0.004, 4.25)):
        shapes = {"24×64": (SHAPES["24×64"][0], loss)}
        changes = {"learning_rate": rate, "learning_rates_tried": None}
        write_sweep(tmp_path / str(rate), shapes, noise=0, **changes)
    assert found(read(tmp_path), "learning rate") == []
    write_sweep(tmp_path / "8", {"24×64": (SHAPES["24×64"][0], 4.1)},
                learning_rate=0.008, learning_rates_tried=None)  # fmt: skip
    assert "24×64 lr 0.008 (0.008 of 0.001–0.008)" in found(read(tmp_path), "learning rate")[0]


def by_rule(folder, rates, **changes):
    """A sweep in which the recipe rule chose step and rate of each shape."""
    for name, rate in rates.items():
        chosen = {"tokens_per_step": 2048, "optimizer.learning_rate": rate}
        facts = {"learning_rate": rate, "learning_rates_tried": None, "chosen_by_rule": chosen}
        write_sweep(folder / name, {name: SHAPES[name]}, **(facts | changes))
    return read(folder)


def test_rates_that_the_recipe_rule_chose_are_no_defect(tmp_path):
    """They are described, and are neither untried nor too different."""
    shapes = by_rule(tmp_path, {"2×208": 0.01, "24×64": 0.02})
    assert found(shapes, "learning rate", is_serious=True) == []
    assert found(shapes, "learning rate") == [
        "the recipe rule chose a learning rate for each number of tokens and shape: 2×208: 0.01; "
        "24×64: 0.02; rates were not tuned for this comparison"
    ]
    assert [caution.kind for caution in cautions(shapes) if caution.is_serious] == []


def test_one_rate_of_the_rule_for_a_base_shape(tmp_path):
    shapes = by_rule(tmp_path, {"2×208": 0.01, "24×64": 0.01})
    assert found(shapes, "learning rate") == [
        "the recipe rule chose the learning rate 0.01 for all configurations; rates were not tuned "
        "for this comparison"
    ]


def test_a_rate_set_by_hand_beside_rates_of_the_rule(tmp_path):
    by_rule(tmp_path, {"2×208": 0.01, "8×112": 0.015})
    write_sweep(tmp_path / "hand", {"24×64": SHAPES["24×64"]}, learning_rates_tried=None)
    assert found(read(tmp_path), "learning rate") == [
        "no other learning rate was tried for 24×64; train with learning_rate_probe=true",
        "the recipe rule chose a learning rate for each number of tokens and shape: 2×208: 0.01; "
        "8×112: 0.015; rates were not tuned for this comparison",
    ]


def test_a_probe_replaces_the_rate_of_the_rule(tmp_path):
    """What it found at the edge is a caution, as without a rule."""
    tried = [{"learning_rate": rate, "val_loss": 4.2} for rate in (0.01, 0.02)]
    rates = {"2×208": 0.01, "24×64": 0.02}
    shapes = by_rule(tmp_path, rates, learning_rates_tried=tried)
    (text,) = found(shapes, "learning rate")
    assert text.startswith("the learning rate is the lowest or highest of those tried: 2×208")


def test_a_rule_used_outside_its_range(tmp_path):
    outside = ["width 208 (fitted from 16 to 64)"]
    by_rule(tmp_path, {"2×208": 0.01}, rule_extrapolated=outside)
    by_rule(tmp_path, {"24×64": 0.02}, rule_extrapolated=[])
    assert found(read(tmp_path), "learning rate", is_serious=True) == [
        "the recipe rule was used outside the range that it was fitted on: 2×208: width 208 "
        "(fitted from 16 to 64); check its rates with learning_rate_probe=true"
    ]


def test_steps_that_the_rule_chose_for_other_budgets(tmp_path):
    """A step set by hand for one of the configurations is a caution as before."""
    rates = {"2×208": 0.01, "24×64": 0.02}
    by_rule(tmp_path / "a", rates, tokens_per_step=4096, tokens=4_000_000)
    by_rule(tmp_path / "b", rates)
    shapes = read(tmp_path)
    assert found(shapes, "tokens_per_step", is_serious=True) == []
    (text,) = found(shapes, "tokens_per_step")
    assert text.endswith("; the recipe rule chose it from the number of tokens")
    write_sweep(tmp_path / "c", {"8×112": SHAPES["8×112"]}, tokens_per_step=512)
    (text,) = found(read(tmp_path), "tokens_per_step", is_serious=True)
    assert "rule" not in text


def test_too_few_and_unpaired_seeds(tmp_path):
    write_sweep(tmp_path / "a", {"2×208": SHAPES["2×208"]})
    write_sweep(tmp_path / "b", {"24×64": SHAPES["24×64"]}, seeds=(1, 2))
    shapes = read(tmp_path)
    assert found(shapes, "seeds", is_serious=True) == [
        "fewer than 3 seeds: 24×64; there is no verdict on them, so train more seeds"
    ]
    assert found(shapes, "seeds", is_serious=False) == [
        "seeds that only some configurations have: 2×208 seed 0; pairs are compared by "
        "least squares with an effect of each seed"
    ]


def test_runs_near_the_unigram_loss(tmp_path):
    shapes = read(write_sweep(tmp_path, TWO | {"bad": (model(4, 160, 360, 10, 5), 5.9)}, noise=0))
    (text,) = found(shapes, "training length", is_serious=True)
    assert text.startswith("less than 1 nat below the unigram loss: 4×160 (0.")
    assert " below); training" in text
    assert text.endswith("training was too short for a conclusion, increase max_tokens")


@pytest.mark.parametrize(
    ("changes", "kind", "is_serious", "message"),
    [
        ({"optimizer": "muon"}, "optimizer", True, "optimizer differs: adamw and muon"),
        (
            {"precision": "bf16-mixed"},
            "precision",
            True,
            "precision differs: 32-true and bf16-mixed",
        ),
        ({"device": "H200"}, "device", False, "device differs: AMD EPYC 9B14 and H200"),
        ({"threads": 8}, "number of threads", False, "number of threads differs: 2 and 8"),
        (
            {"versions": {"torch": "2.11.0"}},
            "torch version",
            False,
            "torch version differs: 2.11.0 and 2.13.0",
        ),
        (
            {"git": {"commit": "f" * 40, "dirty": False}},
            "git commit",
            False,
            "git commit differs: 0123456789 and ffffffffff",
        ),
        (
            {"git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True}},
            "git commit",
            False,
            "3 runs used a working tree with uncommitted changes: the commit alone does not "
            "reproduce them",
        ),
    ],
)
def test_runs_made_differently(tmp_path, changes, kind, is_serious, message):
    assert found(pair(tmp_path, **changes), kind, is_serious=is_serious) == [message]


def test_an_optimizer_given_as_its_configuration(tmp_path):
    given = {"_target_": "mobilellm.optim.muon", "_partial_": True, "learning_rate": 1, "beta": 2}
    assert found(pair(tmp_path, optimizer=given), "optimizer") == [
        "optimizer differs: adamw and muon beta=2"
    ]


def test_what_differs_besides_depth_and_width(tmp_path):
    shapes = {"a": (model(8, 112, 224), 4.2), "b": (model(8, 112, 336, feed_forward="relu"), 4.2)}
    (text,) = found(read(write_sweep(tmp_path, shapes)), "architecture")
    assert text == (
        "besides depth and width, the models differ in feed-forward type (relu and swiglu) and "
        "ratio of feed-forward width to model width (2.0 and 3.0)"
    )


def test_the_tokens_around_documents_are_named(tmp_path):
    begun = {"bos_token_id": 1, "adds_eos": False}
    names = {"name": "stories", "dir": "prepared"}
    assert found(pair(tmp_path / "none", data=names), "data") == []
    shapes = pair(tmp_path / "one", data=names | begun)
    (text,) = found(shapes, "data", is_serious=True)
    assert text == (
        "documents begin and end with different tokens (2×208: an end-of-text token after each; "
        "24×64: token 1 before each)"
    )
    write_sweep(tmp_path / "all", TWO, data=names | {"bos_token_id": 1, "adds_eos": True})
    assert found(read(tmp_path / "all"), "data") == [
        "tokens around documents: token 1 before each and an end-of-text token after it"
    ]
