"""What was done to a model is part of what is compared, and of its name."""

import re

import pytest
from simulated_sweep import model, summary, write_run

from mobilellm.report.fairness import cautions
from mobilellm.report.run_groups import group_runs
from mobilellm.report.run_settings import EARLIER_CALLBACKS, LIGHTNING_CALLBACKS, share_text
from mobilellm.report.runs import read_runs

FACTORIZATION = "mobilellm.compression.factorization.Factorization"
GUARD = "mobilellm.callbacks.loss_guard.LossGuardCallback"


def recipe(target=FACTORIZATION, ratio=0.5, **fields):
    """The group compression with one recipe, as config.yaml has it."""
    settings = {"_target_": target, "layers": ["blocks.*"], **fields}
    if target == FACTORIZATION:
        budget = {"ratio": ratio, "stored_ratio": None, "max_bytes": None, "bits": 16}
        settings = {"budget": budget, "parts": [], "permutations": "none"} | settings
    return {"compression": settings | {"calibration_tokens": 65536}}


def distilled(weight=0.5, *losses, **fields):
    """The group distillation, as config.yaml has it."""
    node = {
        "_target_": "mobilellm.callbacks.distillation.DistillationCallback",
        "teacher": "outputs/teacher/model",
        "cross_entropy_weight": weight,
        "losses": {
            name: {"_target_": "mobilellm.distillation.ForwardKL", "weight": 0.5, "rest": "bucket"}
            for name in losses or ("forward_kl",)
        },
    }
    return {"distillation": node | fields}


def grouped(folder, *configs, **changes):
    """Shapes of runs that differ in config.yaml, one seed each."""
    for index, config in enumerate(configs):
        write_run(folder / str(index), summary(model(), **changes), config=config)
    return group_runs(read_runs([folder]).finished)


def labels(folder, *configs, **changes):
    return [shape.label for shape in grouped(folder, *configs, **changes)[0]]


def test_distilled_and_plain(tmp_path):
    found = labels(tmp_path, {}, distilled(), distilled(1.0))
    assert sorted(found) == [
        "8×112",
        "8×112 + forward_kl cross_entropy_weight=0.5",
        "8×112 + forward_kl cross_entropy_weight=1.0",
    ]


def test_the_name_of_the_choice_where_the_run_recorded_it(tmp_path):
    losses = distilled(1.0, "embedding", "attention", "feed_forward")
    write_run(tmp_path / "a", summary(model(), choices={"distillation": "none"}))
    facts = summary(model(), choices={"distillation": "kngpt2"})
    write_run(tmp_path / "b", facts, config=losses)
    found = [shape.label for shape in group_runs(read_runs([tmp_path]).finished)[0]]
    assert found == ["8×112", "8×112 + kngpt2"]


def test_an_older_run_is_named_by_its_losses(tmp_path):
    losses = distilled(1.0, "embedding", "attention")
    assert labels(tmp_path, {}, losses) == ["8×112", "8×112 + embedding, attention"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (recipe(), "8×112 low rank ½"),
        (recipe(parts=[{"right": None, "num_terms": None}]), "8×112 low rank ½"),
        (recipe(ratio=0.3), "8×112 low rank 30 %"),
        (recipe(parts=None), "8×112 searched ½"),
        (recipe(parts=[{"right": [1, 2], "num_terms": 1}]), "8×112 kronecker ½"),
        (
            recipe(parts=[{"right": [4, 2]}], permutations="all", ratio=0.25),
            "8×112 permuted kronecker ¼",
        ),
        (
            recipe(budget={"ratio": None, "max_bytes": 20_000_000, "bits": 16}),
            "8×112 low rank 20 MB",
        ),
        (
            recipe("x.Pruning", method="wanda", sparsity=0.5, pattern="unstructured"),
            "8×112 wanda ½ zero",
        ),
        (
            recipe("x.Pruning", method="sparsegpt", sparsity=0.5, pattern="2:4"),
            "8×112 sparsegpt 2:4",
        ),
        (
            recipe("x.StructuredPruning", keep_channels=0.5, keep_heads=None, keep_blocks=0.75),
            "8×112 structured channels ½, blocks ¾",
        ),
    ],
)
def test_a_compressed_model_says_how(tmp_path, config, expected):
    assert labels(tmp_path, config) == [expected]


def test_shares():
    values = [0.5, 1 / 3, 0.25, 0.75, 0.375, 0.123456]
    assert [share_text(value) for value in values] == ["½", "⅓", "¼", "¾", "37.5 %", "12.3 %"]


def test_arms_in_the_order_of_what_they_keep(tmp_path):
    for ratio in (0.25, 0.75, 0.5):
        facts = summary(model())
        facts["parameters"] = facts["parameters"] | {"stored": int(1e6 * ratio)}
        write_run(tmp_path / f"r{ratio}", facts, config=recipe(ratio=ratio))
    write_run(tmp_path / "dense", summary(model()))
    found = [shape.label for shape in group_runs(read_runs([tmp_path]).finished)[0]]
    assert found == ["8×112", "8×112 low rank ¾", "8×112 low rank ½", "8×112 low rank ¼"]


def test_seeds_stay_one_shape_where_the_plan_follows_the_calibration_text(tmp_path):
    """A searched plan can give each seed other shapes; the configured model is the same."""
    for seed in range(3):
        compressed = model(ffn=(200 + 8 * seed,) * 8)
        config = recipe(parts=None) | {"model": model().to_dict()}
        write_run(tmp_path / str(seed), summary(compressed, seed=seed), config=config)
    ((shape,), left_out) = group_runs(read_runs([tmp_path]).finished)
    assert shape.seeds == (0, 1, 2) and not left_out


def guard(action, **fields):
    return {"callbacks": {"loss_guard": {"_target_": GUARD, "action": action, **fields}}}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (
            {"data": {"tasks": ["label"]}},
            {"data": {"tasks": ["label", "rationale"]}},
            ["8×112 tasks=label", "8×112 tasks=label,rationale"],
        ),
        (
            guard("stop", window=50),
            guard("skip", window=50),
            ["8×112 loss_guard.action=skip", "8×112 loss_guard.action=stop"],
        ),
        (
            {},
            {"callbacks": {"mine": {"_target_": "my.ExtraLoss", "weight": 1}}},
            ["8×112 mine ExtraLoss", "8×112 no mine"],
        ),
        (
            {"schedule": {"_target_": "mobilellm.optim.schedules.cosine", "warmup_fraction": 0.1}},
            {"schedule": {"_target_": "mobilellm.optim.schedules.wsd", "decay_fraction": 0.2}},
            ["8×112 schedule cosine", "8×112 schedule wsd"],
        ),
    ],
)
def test_arms_that_differ_in_one_thing_are_not_merged(tmp_path, one, other, expected):
    shapes, left_out = grouped(tmp_path, one, other)
    found = sorted(re.sub(r"callbacks\.", "", shape.label) for shape in shapes)
    assert not left_out and found == expected


def test_passive_callbacks_and_null_do_not_distinguish_configurations(tmp_path):
    """Callbacks of earlier runs are known by their class, others from summary.json."""
    earlier, lightning = (
        {n.lower(): {"_target_": f"some.module.{n}", "refresh": 1} for n in names}
        for names in (EARLIER_CALLBACKS, LIGHTNING_CALLBACKS)
    )
    mine = {"mine": {"_target_": "my.WeightNorm", "every_steps": 9}}
    runs = [
        ({"callbacks": earlier | lightning}, {}),
        ({"callbacks": mine | lightning}, {"passive_callbacks": ["mine"]}),
        ({"callbacks": {}}, {"passive_callbacks": []}),
        (guard("stop", window=9), {}),
        ({"max_seconds": None, "init_layers": None}, {}),
    ]
    for seed, (config, facts) in enumerate(runs):
        write_run(tmp_path / str(seed), summary(model(), seed=seed, **facts), config=config)
    assert len(group_runs(read_runs([tmp_path]).finished)[0]) == 1


def test_a_callback_that_is_not_recorded_as_passive_distinguishes_configurations(tmp_path):
    name = min(EARLIER_CALLBACKS)
    config = {"callbacks": {"one": {"_target_": f"my.{name}"}}}
    write_run(tmp_path / "a", summary(model(), passive_callbacks=["other"]), config=config)
    write_run(tmp_path / "b", summary(model(), passive_callbacks=["one"]), config=config)
    assert len(group_runs(read_runs([tmp_path]).finished)[0]) == 2


def test_extended_runs_say_so(tmp_path):
    """Each seed extends its own run, and the three are one shape."""
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", summary(model(), seed=seed))
        for name, rewarmed in (("b", True), ("c", False)):
            facts = summary(
                model(), seed=seed, extended_from=f"outputs/a{seed}", rewarmed=rewarmed,
                parent_tokens=500_000,
            )  # fmt: skip
            config = {"extend_from": f"outputs/a{seed}"}
            write_run(tmp_path / f"{name}{seed}", facts, config=config)
    shapes, left_out = group_runs(read_runs([tmp_path]).finished)
    assert sorted(shape.label for shape in shapes) == [
        "8×112 extended", "8×112 re-warmed", "8×112 single run",
    ]  # fmt: skip
    assert all(shape.seeds == (0, 1) for shape in shapes) and not left_out
    (text,) = [caution.message for caution in cautions(shapes) if caution.kind == "schedule"]
    assert "(re-warmed): 8×112 re-warmed;" in text


def test_at_most_three_settings_and_none_twice(tmp_path):
    changes = [{f"setting_{letter}": value for letter in "abcde"} for value in (1, 2)]
    found = labels(tmp_path, *changes)
    assert found == [
        "8×112 setting_a=1 setting_b=1 setting_c=1",
        "8×112 setting_a=2 setting_b=2 setting_c=2",
    ]
    hidden = [{"zz": 1, **{f"a{n}": n for n in range(5)}}, {"zz": 2}]
    assert len(set(labels(tmp_path / "more", *hidden, {"zz": 3}))) == 3


def test_no_label_shows_a_class_path(tmp_path):
    found = labels(tmp_path, {}, distilled(), recipe(), recipe() | distilled(), guard("skip"))
    assert len(set(found)) == 5
    assert not any("_target_" in label or "None" in label for label in found)
    assert max(map(len, found)) < 60
