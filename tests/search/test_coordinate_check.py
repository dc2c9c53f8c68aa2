"""Under CompleteP activations keep their sizes over width and depth; under standard they drift."""

from functools import partial

import pytest
import torch

from mobilellm.models import MobileLLM
from mobilellm.models.initialization import initialize_
from mobilellm.optim import adamw, completep, muon, mup
from mobilellm.search import config_for_shape
from mobilellm.search.coordinate_check import (
    QUANTITIES,
    Measurement,
    Recipe,
    byte_batches,
    measure_shape,
    spreads,
)

BASE = {"base_width": 64, "base_depth": 4}
TEXT = b"".join(b"%d times %d is %d.\n" % (a, b, a * b) for a in range(40) for b in range(40))
RATES = {adamw: 2e-3, muon: 1e-2}


def make_recipe(make, parametrization, *, steps=4, seeds=1):
    optimizer = partial(make, learning_rate=RATES[make], parametrization=parametrization)
    return Recipe(
        optimizer=optimizer, parametrization=parametrization, steps=steps, seeds=seeds,
        initialization={"std": 0.02, "residual_scaling": True},
    )  # fmt: skip


def measure(recipe, widths, depths, **changes):
    """Shapes of one width or depth each, as the command measures them."""
    batches = byte_batches(TEXT, windows=4, tokens=32, count=recipe.steps * recipe.seeds + 1)
    shapes = [("width", width, 4) for width in widths] + [("depth", 64, d) for d in depths]
    found = []
    for axis, width, depth in shapes:
        config = config_for_shape(depth, width, vocab_size=256, **changes)
        found += [
            Measurement(
                parametrization="", axis=axis, width=width, depth=config.num_layers, step=step,
                sizes=sizes,
            )
            for step, sizes in enumerate(measure_shape(config, recipe, batches))
        ]  # fmt: skip
    return found


def deviations(measurements):
    return {(s.axis, s.quantity): s.deviation for s in spreads(measurements)}


@pytest.mark.parametrize("make", [adamw, muon])
def test_completep_is_flat_and_standard_drifts(make):
    """Within 20 % of the mean after a few steps."""
    widths, depths = (64, 256), (2, 4, 16)
    flat = deviations(measure(make_recipe(make, completep(**BASE), seeds=2), widths, depths))
    assert max(flat.values()) < 0.2, flat
    drift = deviations(measure(make_recipe(make, None), widths, depths))
    assert max(drift["width", name] for name in QUANTITIES) > 0.5
    assert drift["depth", "residual_stream"] > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("make", [adamw, muon])
def test_completep_is_flat_from_depth_2_to_32_and_width_64_to_512(make):
    recipe = make_recipe(make, completep(**BASE), seeds=2)
    flat = deviations(measure(recipe, (64, 128, 256, 512), (2, 4, 8, 16, 32)))
    assert max(flat.values()) < 0.2, flat


def test_mup_is_flat_over_width_and_drifts_over_depth():
    found = deviations(measure(make_recipe(adamw, mup(base_width=64)), (64, 256), (2, 16)))
    assert max(size for (axis, _), size in found.items() if axis == "width") < 0.25
    assert found["depth", "residual_stream"] > 0.4


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": False},
        {"group_size": 4, "qk_norm": "rms"},
        {"block_repeats": 2, "layer_sharing": "repeat_all"},
    ],
    ids=str,
)
def test_it_is_flat_for_untied_grouped_and_shared_models_too(changes):
    """With shared blocks, depth counts applications."""
    recipe = make_recipe(adamw, completep(**BASE), seeds=2)
    flat = deviations(measure(recipe, (64, 256), (2, 8), **changes))
    assert max(flat.values()) < 0.25, flat


def test_sizes_are_those_of_the_model_before_the_first_step():
    recipe = make_recipe(adamw, completep(**BASE), steps=1)
    [first, _] = measure(recipe, [128], [])
    rules = completep(**BASE)
    model = MobileLLM(rules.configured(config_for_shape(4, 128, vocab_size=256)))
    scale = rules.initial_scale(model.config)
    initialize_(model, std=0.02, residual_scaling=True, seed=0, scale=scale)
    ids = byte_batches(TEXT, windows=4, tokens=32, count=2)[-1][:, :-1]
    with torch.no_grad():
        output = model(ids, capture=["hidden_states", "feed_forward"])
    fed = sum(x.square().mean().sqrt().item() for x in output.captured["feed_forward"]) / 4
    assert first.sizes["feed_forward"] == pytest.approx(fed)
    assert first.sizes["logits"] == pytest.approx(output.logits.square().mean().sqrt().item())
    assert first.sizes["residual_stream"] == pytest.approx(
        output.captured["hidden_states"][-1].square().mean().sqrt().item()
    )


def test_the_spread_is_the_largest_deviation_from_the_mean():
    found = [
        Measurement(
            parametrization="", axis="width", width=width, depth=4, step=2,
            sizes=dict.fromkeys(QUANTITIES, size),
        )
        for width, size in ((64, 1.0), (256, 4.0), (128, 1.0))
    ]  # fmt: skip
    (spread, *_) = spreads(found)
    assert (spread.axis, spread.deviation, spread.growth) == ("width", 1.0, 4.0)


def test_windows_are_places_of_the_text():
    batches = byte_batches(TEXT, windows=3, tokens=8, count=2)
    assert [tuple(batch.shape) for batch in batches] == [(3, 9), (3, 9)]
    assert all(bytes(row.tolist()) in TEXT for batch in batches for row in batch)
    with pytest.raises(ValueError, match="the text has 5 bytes, and a window 9; give a longer"):
        byte_batches(b"short", windows=1, tokens=8, count=1)
