"""The page of a search: findings by hand, and the files that it writes."""

import json

import pytest
import yaml

from mobilellm.models import ModelConfig
from mobilellm.report.search.findings import findings
from mobilellm.report.search.page import write_model_file, write_search_page
from mobilellm.report.search.results import (
    FinalResult,
    SearchResults,
    TrialResult,
    best_by_tokens,
)
from mobilellm.search.latency_check import LatencyCheck, MeasuredLatency
from mobilellm.search.space.domains import Choices
from mobilellm.search.study.objectives import parse_objectives
from mobilellm.search.study.records import TrialRecord
from mobilellm.search.study.storage import StudyTrial


def trial(number, loss, body, *, status="finished", tokens=1000):
    record = TrialRecord(
        number=number, point={"model.num_blocks": number}, overrides=(), run=f"run-{number}",
        settings={"model.num_blocks": number}, costs={"body": body, "flops": 2 * body},
    )  # fmt: skip
    values = None if loss is None else (loss, 2 * body)
    steps = () if loss is None else ((100, loss + 1), (tokens, loss))
    domains = {"model.num_blocks": Choices((1, 2))}
    return TrialResult(
        record,
        StudyTrial(number=number, status=status, point=record.point, domains=domains,
                   values=values),
        tokens, steps,
    )  # fmt: skip


TRIALS = (
    trial(0, 3.5, 100.0), trial(1, 3.2, 200.0), trial(2, 3.4, 300.0),
    trial(3, 4.2, 150.0, status="pruned", tokens=200),
    trial(4, None, 50.0, status="failed", tokens=100),
)  # fmt: skip


def results(**changes):
    given = {"name": "mine", "sampler": "tpe", "trials": TRIALS, "budget": 1000.0,
             "objectives": parse_objectives(["val_loss", "flops"]), "importance": {}}  # fmt: skip
    return SearchResults(**(given | changes))


def test_front_tokens_and_largest_body_by_hand():
    found = results()
    assert [one.record.number for one in found.ranked] == [1, 2, 0]
    assert [one.record.number for one in found.front] == [0, 1]
    assert found.tokens_used == 3 * 1000 + 200 + 100
    assert found.share_saved == pytest.approx(800 / 4100)
    assert found.largest_body is TRIALS[2]
    assert best_by_tokens(TRIALS, parse_objectives(["val_loss"])[0]) == (
        (1000, 3.5), (2000, 3.2), (3000, 3.2), (3200, 3.2), (3300, 3.2),
    )  # fmt: skip
    assert best_by_tokens(TRIALS, parse_objectives(["-val_accuracy"])[0])[-1] == (3300, 3.5)


def test_the_best_value_of_a_maximised_objective_is_the_highest():
    found = results(objectives=parse_objectives(["-val_accuracy", "flops"]))
    assert findings(found)[0] == "Highest val_accuracy: 3.5, by trial 0 (num_blocks=0)."


def test_findings_say_what_was_found_and_how_far_it_can_be_trusted():
    text = " ".join(findings(results()))
    assert "Lowest val_loss: 3.2, by trial 1 (num_blocks=1)." in text
    assert "5 trials: 3 finished, 1 pruned, 1 failed; 3.30k tokens in all, 20 % fewer" in text
    assert "largest body (trial 2) has 3.4, +0.2 compared with the best" in text
    assert "not known how well they rank longer training" in text
    finalists = tuple(
        FinalResult(number, short, {0: final, 1: final + 0.2})
        for number, short, final in ((0, 3.5, 2.0), (1, 3.2, 2.5), (2, 3.4, 2.4))
    )
    text = " ".join(findings(results(finalists=finalists)))
    assert "trial 0 has the lowest mean loss" in text
    assert "is -1.00 over 3 finalists" in text
    assert findings(results(trials=TRIALS[3:])) == ["No trial has finished, so there is no result."]


def test_the_page_and_its_files(tmp_path):
    page = write_search_page(results(), tmp_path, notes=["A <note>."])
    text = page.read_text(encoding="utf-8")
    assert text.count("<figure>") == 3
    assert "A &lt;note&gt;." in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "search_front.png", "search_progress.png", "search_curves.png",
    }  # fmt: skip
    record = json.loads((tmp_path / "search.json").read_text(encoding="utf-8"))
    assert record["front"] == [0, 1]
    assert [one["status"] for one in record["trials"]] == [one.trial.status for one in TRIALS]


def test_measured_latencies_are_on_the_page_and_in_the_record(tmp_path):
    check = LatencyCheck("4×128", (MeasuredLatency(1, 2.0, 2.1, 3.0),))
    page = write_search_page(results(latency_check=check), tmp_path).read_text(encoding="utf-8")
    assert "trial 1: 2.1 ms per token, predicted 2 (+5 %), meets the limit of 3." in page
    record = json.loads((tmp_path / "search.json").read_text(encoding="utf-8"))
    assert record["latency_check"]["models"] == [
        {"number": 1, "predicted": 2.0, "measured": 2.1, "limit": 3.0}
    ]


def test_the_winner_is_a_choice_of_the_group_model(tmp_path):
    from mobilellm.hydra_app.configuration import compose, instantiate

    model = ModelConfig(vocab_size=64, hidden_size=16, intermediate_size=(24, 40), num_blocks=2,
                        num_attention_heads=2)  # fmt: skip
    path = write_model_file(tmp_path, "winner", model, "trial 3")
    assert yaml.safe_load(path.read_text("utf-8"))["_target_"] == "mobilellm.models.ModelConfig"
    given = [f"hydra.searchpath=[file://{tmp_path}]", "model=winner"]
    assert instantiate(compose("train", given).model) == model
