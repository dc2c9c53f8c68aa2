"""What a comparison holds equal, by how much it misses it, and what it does not hold equal."""

import json

import pytest
from simulated_sweep import SHAPES, count, flops, model, summary, write_run, write_sweep

from mobilellm.report.budgets import held_equal, split_by_budget
from mobilellm.report.fairness import cautions
from mobilellm.report.run_groups import group_runs
from mobilellm.report.runs import read_runs


def read(folder):
    return group_runs(read_runs([folder]).finished)[0]


def serious(groups, kind="budget"):
    return [c.message for c in cautions(groups) if c.kind == kind and c.is_serious]


def write_declared(folder, shapes, settings, **changes):
    """Runs of shapes with settings in their config.yaml."""
    for name, config in shapes.items():
        for seed in (0, 1, 2):
            facts = summary(config, seed=seed, loss=4.2, **changes)
            write_run(folder / f"{name},{seed}", facts, config=settings)


def test_each_quantity_is_counted_by_hand(tmp_path):
    (found,) = held_equal(read(write_sweep(tmp_path)))
    ranges = {budget.name: (budget.smallest, budget.largest) for budget in found.budgets}
    configs = [config for config, _ in SHAPES.values()]
    for name in ("body", "stored"):
        sizes = [count(config)[name] for config in configs]
        assert ranges[f"{name} parameters"] == (min(sizes), max(sizes))
    work = [flops(config, 256)["training"] for config in configs]
    assert ranges["training FLOPs per token"] == (min(work), max(work))
    assert ranges["training FLOPs"] == (1e6 * min(work), 1e6 * max(work))
    norms = [config.hidden_size * (2 * config.num_blocks + 1) for config in configs]
    sizes = [
        -(-(4 * (count(config)["stored"] - norm) + 16 * norm) // 8)
        for config, norm in zip(configs, norms, strict=True)
    ]
    assert ranges["bytes of weights at 4 bits"] == (min(sizes), max(sizes))
    assert ranges["training tokens"] == (1e6, 1e6)
    assert "measured decode latency" not in ranges
    text = str(found)
    assert text.startswith("Held equal: body parameters 985k–1.01M (±1.1 %) and training tokens")
    assert "Not equal: stored parameters (±12.4 %), training FLOPs per token (±32.4 %) and" in text


def test_the_bits_are_those_of_the_runs(tmp_path):
    settings = {"model": {"match": "bytes", "budget": "6e5", "bits": 3, "embedding_bits": 6}}
    shapes = {name: SHAPES[name][0] for name in ("2×208", "24×64")}
    write_declared(tmp_path, shapes, settings)
    (found,) = held_equal(read(tmp_path))
    assert any(b.name == "bytes of weights at 3 bits, 6 in the embedding" for b in found.budgets)


def test_shapes_of_one_latency_are_one_budget(tmp_path):
    """Although their parameters differ by a factor of two."""
    for name, config, ms in (("a", model(2, 208, 528, 13, 13), 2.49), ("b", model(4), 2.52)):
        matched = {"match": "latency", "budget": 2.5, "reached": ms}
        for seed in (0, 1, 2):
            facts = summary(config, seed=seed, loss=4.2, matched=matched)
            write_run(tmp_path / f"{name}{seed}", facts)
    groups = read(tmp_path)
    assert len(split_by_budget(groups)) == 1
    (found,) = held_equal(groups)
    assert [b.name for b in found.budgets if b.is_matched] == [
        "predicted decode latency", "training tokens",
    ]  # fmt: skip
    assert serious(groups) == []


def test_other_tokens_at_equal_flops_are_no_confound(tmp_path):
    work = {name: flops(SHAPES[name][0], 256)["training"] for name in ("2×208", "16×64")}
    for name, per_token in work.items():
        tokens = int(9e12 / per_token)
        write_declared(tmp_path / name, {name: SHAPES[name][0]}, {"max_flops": "9e12"},
                       tokens=tokens, max_tokens=tokens)  # fmt: skip
    groups = read(tmp_path)
    (note,) = [c for c in cautions(groups) if c.kind == "tokens"]
    assert not note.is_serious
    assert note.message.endswith("at equal FLOPs of training")
    assert "training FLOPs 9.00T (exactly)" in str(held_equal(groups)[0])


def test_runs_that_miss_the_budget_of_the_others_are_named(tmp_path):
    settings = {"model": {"match": "body", "budget": 1e6}}
    write_declared(tmp_path, {n: SHAPES[n][0] for n in ("2×208", "24×64")}, settings)
    write_declared(tmp_path / "other", {"8×128": model(8, 128, 256, 8, 8)}, {})
    assert (
        "2 of 3 configurations were trained for body parameters of 1.00M, which others do not "
        "have: 8×128 (1.31M, +31 %); train these with model=by_budget model.match=body "
        "model.budget=1000000.0, or leave them out"
    ) in serious(read(tmp_path))


def test_runs_without_the_latency_of_the_others_are_named(tmp_path):
    settings = {"model": {"match": "latency", "budget": 2.5, "latency_profile": "here.json"}}
    profile = {"hash": "abc", "device": "Phone", "threads": 1, "context": 64}
    matched = {"match": "latency", "reached": 2.5, "profile": profile}
    write_declared(
        tmp_path, {n: SHAPES[n][0] for n in ("2×208", "16×64")}, settings, matched=matched
    )
    write_declared(tmp_path / "other", {"8×112": SHAPES["8×112"][0]}, {})
    (text,) = [t for t in serious(read(tmp_path)) if "predicted decode latency" in t]
    assert "which others do not have: 8×112 (unknown); train these with model=by_budget" in text
    assert "model.latency_profile=here.json" in text


def test_latencies_of_two_devices_are_not_one_budget(tmp_path):
    settings = {"model": {"match": "latency", "budget": 2.5, "latency_profile": "here.json"}}
    for device, name in (("Phone", "2×208"), ("Laptop", "16×64")):
        matched = {"match": "latency", "reached": 2.5, "profile": {"hash": "a", "device": device}}
        write_declared(tmp_path / device, {name: SHAPES[name][0]}, settings, matched=matched)
    (text,) = [t for t in serious(read(tmp_path)) if "profile" in t]
    assert "different device profiles: a of Laptop and a of Phone; train all with one" in text


def test_a_ladder_of_budgets_misses_none(tmp_path):
    for budget, name in ((1e6, "2×208"), (2e6, "24×64")):
        settings = {"model": {"match": "body", "budget": budget}}
        write_declared(tmp_path, {name: SHAPES[name][0]}, settings)
    assert not [text for text in serious(read(tmp_path)) if "were trained for" in text]


@pytest.mark.parametrize("spoilt", [None, "many"])
def test_configurations_without_a_budget_have_none(tmp_path, spoilt):
    write_declared(tmp_path, {"2×208": SHAPES["2×208"][0], "24×64": SHAPES["24×64"][0]},
                   {"model": {"match": "body", "budget": spoilt}})  # fmt: skip
    assert not [text for text in serious(read(tmp_path)) if "were trained for" in text]
    json.dumps([str(found) for found in held_equal(read(tmp_path))])
