"""The forecast of a search, on what it is made of: counts, and times measured on the spot."""

import logging
import re

import pytest
import torch

from mobilellm.compression import forecast
from mobilellm.compression.allocation import PROPOSALS
from mobilellm.compression.factorization import Factorization
from mobilellm.evaluation import validation
from mobilellm.models import MobileLLM, ModelConfig


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MobileLLM(ModelConfig(vocab_size=48, hidden_size=16, intermediate_size=24,
                                 num_blocks=1, num_attention_heads=4))  # fmt: skip


def batches():
    ids = torch.randint(48, (6, 33), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": ids[:, :-1], "labels": ids[:, 1:]}]


def test_a_search_is_forecast_before_it_begins_and_counts_what_it_measures(
    model, caplog, monkeypatch
):
    from mobilellm.compression import allocation as sensitivity

    measured = []
    real = validation.sum_losses
    monkeypatch.setattr(
        sensitivity, "sum_losses", lambda *given: measured.append(1) or real(*given)
    )
    recipe = Factorization(allocation="searched", fit="weights", budget={"ratio": 0.6})
    with caplog.at_level(logging.INFO, logger="mobilellm"):
        recipe.plan(model, batches())
    (message,) = [m for m in caplog.messages if "the search takes about" in m]
    found = re.search(r"about [\d.]+ (seconds|minutes): (\d+) losses, two fits of the", message)
    most = int(found[2])
    # Divisions that are alike are measured once.
    # Attention, feed-forward layer and seven kinds get more and less, by three factors.
    moved = 2 * 3 * 9
    assert most - PROPOSALS - moved < len(measured) <= most == 2 * 7 + PROPOSALS + 2 + moved


def test_the_forecast_grows_with_the_work(model, caplog, monkeypatch):
    """A second for whatever is timed: two fits, and a loss for each of what is counted."""
    monkeypatch.setattr(forecast, "_seconds", lambda action: 1.0)
    recipe = Factorization(allocation="searched", fit="weights", parts=None)
    division = recipe._division(model)
    with caplog.at_level(logging.INFO, logger="mobilellm"):
        forecast.log_forecast(
            model, batches(), None, division, fit="weights",
            allocation="uniform", shapes=recipe.shape_search,
        )  # fmt: skip
    work = [r * c * min(r, c) for r, c in (model.config.matrix_sizes[n] for n in division.names)]
    assert f"about {sum(work) / work[0]:.1f} seconds: 7 shapes" in caplog.text


@pytest.mark.parametrize("choices", [{}, {"parts": [{"right": [1, 2], "num_terms": 1}]}])
def test_what_is_no_search_is_not_forecast(model, choices, caplog):
    with caplog.at_level(logging.INFO, logger="mobilellm"):
        Factorization(fit="weights", **choices).plan(model, batches())
    assert "search" not in caplog.text
