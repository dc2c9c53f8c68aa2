"""Ranking of shapes from run folders and scores: order, rank correlation, cost, and refusals."""

import json

import numpy as np
import pytest
from scipy.stats import kendalltau
from simulated_sweep import count, flops, model, summary, write_run

from mobilellm.report.shape_ranking import rank, read_alone, read_supernet
from mobilellm.report.shape_ranking_page import write_page
from mobilellm.report.shape_ranking_text import record, sentences, table
from mobilellm.search.supernet_scores import Score, ScoreFile, shapes_to_rank
from mobilellm.search.supernet_shape import shape_inside
from mobilellm.search.supernet_space import SupernetSpace

SUPERNET = model(8, 112, 224, 7, 7)
SPACE = SupernetSpace(num_blocks=[2, 4, 8], hidden_size=[56, 80, 112], intermediate_size=[64, 224])
SHAPES = list(SPACE.shapes(SUPERNET))
JUDGED = SHAPES[::2]  # nine of eighteen
FLOPS = 1.5e7


def true_loss(shape):
    return 5 - 0.1 * shape.num_blocks**0.5 - 0.004 * shape.hidden_size


def write_supernet(folder, **changes):
    facts = {"supernet": {"space": SPACE.to_dict(), "training_flops_per_token": FLOPS}}
    write_run(folder, summary(SUPERNET, **facts | changes))


def write_alone(folder, shapes=JUDGED, seeds=(0, 1), **changes):
    for index, shape in enumerate(shapes):
        for seed in seeds:
            loss = true_loss(shape) + 0.01 * (seed - 0.5)
            write_run(folder / f"{index}_{seed}", summary(shape, seed=seed, loss=loss, **changes))


def scores(noise=0.0):
    errors = np.random.default_rng(0).normal(size=len(SHAPES)) * noise
    return [
        Score(shape=shape, loss=true_loss(shape) + 0.3 + error, seconds=0.5)
        for shape, error in zip(SHAPES, errors, strict=True)
    ]


@pytest.fixture
def folders(tmp_path):
    write_supernet(tmp_path / "super/run")
    write_alone(tmp_path / "alone")
    return tmp_path


def ranking_of(folders, noise=0.0):
    run, space = read_supernet(folders / "super")
    runs = read_alone([folders / "alone"], run, space)
    return rank(run, runs, scores(noise), validation_tokens=1000)


def test_shapes_are_sorted_and_the_order_is_judged(folders):
    found = ranking_of(folders, noise=0.15)
    values = [shape.score for shape in found.shapes]
    assert values == sorted(values)
    assert len(values) == 18
    given = {score.shape: score.loss for score in scores(0.15)}
    expected = kendalltau([given[s] for s in JUDGED], [true_loss(s) for s in JUDGED]).statistic
    assert found.tau.value == pytest.approx(expected)
    assert (found.tau.models, found.tau.pairs) == (9, 36)
    assert 0 < found.tau.value < 1
    alone = {shape.shape: shape.alone for shape in found.shapes if shape.alone is not None}
    assert alone == {shape: pytest.approx(true_loss(shape)) for shape in JUDGED}
    sizes = [count(shape)["body"] for shape in JUDGED]
    by_size = kendalltau([-size for size in sizes], [true_loss(s) for s in JUDGED]).statistic
    assert found.baselines["more body parameters"].value == pytest.approx(by_size)


def test_the_cost_is_compared_with_training_all_shapes_alone(folders):
    cost = ranking_of(folders).cost
    each = [flops(shape, 256) for shape in SHAPES]
    assert cost.supernet_flops == FLOPS * 1_000_000
    assert cost.scoring_flops == pytest.approx(1000 * sum(f["forward"] for f in each), rel=1e-3)
    assert cost.alone_flops == pytest.approx(1_000_000 * sum(f["training"] for f in each), rel=1e-3)
    assert cost.flops_share == pytest.approx(
        (cost.supernet_flops + cost.scoring_flops) / cost.alone_flops
    )
    # The simulated runs take (1 + layers / 24) / 26,000 seconds per token.
    seconds = sum(1_000_000 * (1 + s.num_layers / 24) / 26_000 for s in SHAPES)
    assert cost.alone_seconds == pytest.approx(seconds, rel=0.05)
    assert cost.scoring_seconds == 9.0


def test_texts_state_the_rank_correlation_beside_every_result(folders):
    found = ranking_of(folders)
    assert sentences(found)[0].startswith("Kendall's τ with models trained alone: 1.00 [1.00, 1.0")
    assert "9 models, 36 pairs" in sentences(found)[0]
    assert any("more body parameters: 0." in line for line in sentences(found))
    assert any("0.0000 nats per token above the best one" in line for line in sentences(found))
    assert "Kendall's τ" in table(found).title
    facts = json.loads(json.dumps(record(found, SPACE)))
    assert facts["kendall_tau"] | {"models": 9, "pairs": 36} == facts["kendall_tau"]
    assert {shape["kendall_tau"] for shape in facts["shapes"]} == {1.0}
    assert [shape["rank"] for shape in facts["shapes"]] == list(range(1, 19))


def test_the_page_has_the_plot_and_all_shapes(folders):
    page = write_page(ranking_of(folders), folders)
    text = page.read_text(encoding="utf-8")
    assert text.count("<tr>") == 19
    assert "<svg" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    assert (folders / "ranking.png").stat().st_size > 10_000


def test_choosing_by_a_wrong_order_is_priced(folders):
    run, space = read_supernet(folders / "super")
    runs = read_alone([folders / "alone"], run, space)
    reversed_scores = [Score(shape=s.shape, loss=-s.loss, seconds=0.1) for s in scores()]
    found = rank(run, runs, reversed_scores, validation_tokens=1000)
    assert found.tau.value == -1
    losses = [true_loss(shape) for shape in JUDGED]
    worst = max(losses) - min(losses)
    assert any(f"is {worst:.4f} nats per token above the best" in s for s in sentences(found))


def replaced(folder, **changes):
    path = folder / "summary.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(facts | changes), encoding="utf-8")


HASHES = {"data": "d" * 64, "tokenizer": "e" * 64, "train": "a" * 64, "validation": "b" * 64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": 500_000}, "the runs differ in tokens: 1000000 in .* give runs of one budget"),
        ({"hashes": HASHES | {"train": "c"}}, "differ in hashes.train: .* on the text of the"),
        ({"hashes": HASHES | {"validation": "c"}}, "the runs differ in hashes.validation"),
        ({"sequence_length": 128}, "the runs differ in sequence_length: 256 in"),
        ({"supernet": {"space": {}}}, "is itself a supernet; give runs of single shapes"),
        (
            {"model": model(4, 96, 224, 7, 7).to_dict()},
            r"has a shape that the supernet was not trained with \(4×96, 224 channels, 7/7 heads",
        ),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(changes, message, folders):
    replaced(folders / "alone/3_1", **changes)
    with pytest.raises(ValueError, match=message):
        ranking_of(folders)


def test_runs_that_started_from_other_weights_are_refused(folders):
    (folders / "alone/2_0/config.yaml").write_text("init_from: cut\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"2_0 started from other weights \(init_from=cut\)"):
        ranking_of(folders)


def test_seven_shapes_are_too_few_however_many_seeds_they_have(tmp_path):
    write_supernet(tmp_path / "super/run")
    write_alone(tmp_path / "alone", JUDGED[:7], seeds=(0, 1, 2))
    with pytest.raises(ValueError, match=r"7 shapes were trained alone, .* at least 8; train more"):
        ranking_of(tmp_path)


@pytest.mark.parametrize("number", [0, 2])
def test_exactly_one_supernet_must_be_given(number, tmp_path):
    write_run(tmp_path / "super/plain", summary(SUPERNET))
    for index in range(number):
        write_supernet(tmp_path / f"super/{index}")
    with pytest.raises(
        ValueError, match=f"has {number} finished runs of a supernet.* give the folder"
    ):
        read_supernet(tmp_path / "super")


def test_scores_are_kept_and_belong_to_one_supernet(tmp_path):
    path = tmp_path / "scores.jsonl"
    file = ScoreFile(path, {"model": "a", "windows": 4})
    first, second = scores()[:2]
    file.add(first)
    file.add(second)
    with path.open("a", encoding="utf-8") as broken:
        broken.write('{"model": {"vocab')  # killed while it was writing
    again = ScoreFile(path, {"model": "a", "windows": 4})
    assert again.known == {first.shape: first, second.shape: second}
    again.add(scores()[2])
    assert len(ScoreFile(path, {"model": "a", "windows": 4}).known) == 3
    with pytest.raises(ValueError, match=r"made from something else \(model differ\); give a new"):
        ScoreFile(path, {"model": "b", "windows": 4})


def test_a_large_space_is_sampled_with_the_judged_shapes_in_it():
    assert shapes_to_rank(SPACE, SUPERNET, number=18, included=JUDGED, seed=0) == SHAPES
    some = shapes_to_rank(SPACE, SUPERNET, number=14, included=JUDGED, seed=0)
    assert len(some) == len(set(some)) == 14
    assert {*JUDGED, SUPERNET, SPACE.smallest(SUPERNET)} <= set(some) <= set(SHAPES)
    assert some == shapes_to_rank(SPACE, SUPERNET, number=14, included=JUDGED, seed=0)
    assert some != shapes_to_rank(SPACE, SUPERNET, number=14, included=JUDGED, seed=1)
    assert shape_inside(SUPERNET) in some
