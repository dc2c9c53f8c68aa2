"""Budgets of latency, against brute force and profiles whose law is known."""

import dataclasses

import numpy as np
import pytest
from simulated_profile import PER_LAYER, profile, shape, true_time, write_profile

from mobilellm.evaluation.device_profile import MeasuredShape, read_profile
from mobilellm.search.budget import config_for_budget, solve_budget
from mobilellm.search.latency import FittedTime, LatencyModel


def match(path, **changes):
    return {"match": "latency", "vocab_size": 512, "latency_profile": path} | changes


@pytest.fixture
def path(tmp_path):
    return write_profile(tmp_path / "here.json")


def test_the_law_of_the_profile_is_found_and_the_error_is_that_of_the_noise():
    exact = LatencyModel(profile())
    unseen = shape(6, 192, 400, num_key_value_heads=4)
    assert exact.predict(unseen) == pytest.approx(true_time(unseen))
    assert np.abs(exact.decode.errors).max() < 1e-6
    random = np.random.default_rng(0)
    noisy = LatencyModel(
        profile(
            depths=(2, 3, 4, 6, 8, 12, 16), widths=(64, 96, 128, 192, 256),
            times=lambda model: true_time(model) * np.exp(random.normal(0, 0.05)),
        )
    )  # fmt: skip
    assert 0.04 < np.sqrt(np.mean(noisy.decode.errors**2)) < 0.08
    assert noisy.predict(unseen) == pytest.approx(true_time(unseen), rel=0.05)
    assert "each of 35 shapes predicted from the others" in noisy.error_text


def test_blocks_that_run_again_have_a_time_of_their_own_if_some_were_measured():
    def cached(config):
        """Weights that run again take a third of the time."""
        whole, once = true_time(config), true_time(dataclasses.replace(config, block_repeats=1))
        again = whole - once - PER_LAYER * (config.num_layers - config.num_blocks)
        return whole - 2 / 3 * again

    plain = profile(times=cached)
    shared = [
        MeasuredShape(model=model, decode_ms_per_token=cached(model))
        for width in (64, 128, 256)
        for model in [shape(4, width, 3 * width, block_repeats=2)]
    ]
    both = LatencyModel(profile(shapes=(*plain.shapes, *shared)))
    unseen = shape(6, 192, 400, block_repeats=2)
    assert both.predict(unseen) == pytest.approx(cached(unseen))
    assert both.decode.r_squared == pytest.approx(1)
    # The blocks between two runs of a block drive it out of the cache.
    spread = dataclasses.replace(unseen, layer_sharing="repeat_all")
    assert both.predict(spread) == pytest.approx(true_time(spread))
    assert LatencyModel(plain).predict(unseen) == pytest.approx(true_time(unseen))


def test_the_share_of_explained_variance_is_that_of_predictions_from_other_shapes():
    random = np.random.default_rng(1)
    fitted = LatencyModel(
        profile(times=lambda model: true_time(model) * np.exp(random.normal(0, 0.1)))
    ).decode
    times, found = fitted.times, []
    for place in range(len(times)):
        rest = [other for other in range(len(times)) if other != place]
        alone = FittedTime(fitted.features[rest], times[rest])
        found.append(float(fitted.features[place] @ alone.coefficients))
    residual = sum((a - b) ** 2 for a, b in zip(found, times, strict=True))
    assert fitted.r_squared == pytest.approx(1 - residual / sum((times - times.mean()) ** 2))
    assert 0.8 < fitted.r_squared < 1


@pytest.mark.parametrize("num_blocks", [2, 4, 8, 12])
def test_no_allowed_shape_is_nearer_to_a_latency(path, num_blocks):
    """Against brute force over all widths of the profile and all feed-forward widths."""
    budget = 2.5
    solution = solve_budget(budget, num_blocks, **match(path, group_size=1, tolerance=1))
    found = []
    for width in range(64, 257, 16):
        for inner in range(2 * width, 4 * width + 1, 8):
            time = true_time(shape(num_blocks, width, inner))
            found.append((abs(time / budget - 1), abs(inner / width - 8 / 3), width))
    near = [one for one in found if one[0] <= 0.01]
    ratio = solution.config.intermediate_size / solution.config.hidden_size
    assert solution.reached == pytest.approx(true_time(solution.config))
    if not near:
        assert abs(solution.deviation) == pytest.approx(min(found)[0])
    else:
        # The solver takes the feed-forward width nearest to the budget of each model width.
        best = {}
        for off, proportion, width in found:
            best[width] = min(best.get(width, (off, proportion)), (off, proportion))
        near = [proportion for off, proportion in best.values() if off <= 0.01]
        assert abs(ratio - 8 / 3) == pytest.approx(min(near))


def test_deep_shapes_of_equal_latency_are_thin(tmp_path):
    path = write_profile(tmp_path / "wide.json", widths=(32, 64, 128, 512))
    widths = [config_for_budget(3.0, n, **match(path)).hidden_size for n in (2, 4, 8, 16)]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 4


def test_blocks_that_run_twice_take_twice_the_time(path):
    shared = solve_budget(3.0, 4, **match(path, block_repeats=2, group_size=1))
    assert shared.reached == pytest.approx(true_time(shared.config))
    assert shared.config.num_layers == 8


def test_the_depth_follows_from_the_width(path):
    solution = solve_budget(3.0, hidden_size=128, **match(path, group_size=1))
    assert solution.config.hidden_size == 128
    assert abs(solution.deviation) <= 0.02
    assert str(solution).endswith("of 3.0")


def test_a_profile_reads_as_it_was_written_and_its_hash_follows_its_content(tmp_path, path):
    assert read_profile(tmp_path / "here.json") == profile()
    slower = profile(times=lambda model: 1.01 * true_time(model))
    assert slower.content_hash != profile().content_hash == profile().content_hash


def test_a_changed_profile_is_read_again(tmp_path, path):
    before = config_for_budget(3.0, 8, **match(path))
    write_profile(tmp_path / "here.json", times=lambda model: 2 * true_time(model))
    assert config_for_budget(6.0, 8, **match(path)) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"num_blocks": 32},
            r"layers=32 is outside of the device profile, which was measured from 2 to 16; use a "
            r"value in this range, or measure more with --depths",
        ),
        ({"num_blocks": 12, "block_repeats": 2}, r"layers=24 is outside"),
        ({"hidden_size": 512}, r"hidden_size=512 is outside .* from 64 to 256; .* with --widths"),
        (
            {"num_blocks": 4, "vocab_size": 2048},
            r"vocab_size=2048 differs from .* profile, 512; measure one with --vocab-size 2048",
        ),
        (
            {"num_blocks": 2, "budget": 40},
            r"the nearest shape has [\d.]+ ms per token \(num_blocks=2, hidden_size=256, .*or "
            r"measure beyond 2 to 16 layers and widths of 64 to 256",
        ),
        (
            {"num_blocks": 2, "budget": "fast"},
            r"budget='fast' must be a number from 0.001 to 1e\+06; give e.g. 2.5 \(milliseconds",
        ),
        (
            {"hidden_size": 64, "budget": 60},
            r"no shape with hidden_size=64 lies in the range of the device profile, 2 to 16 layers",
        ),
        ({"num_blocks": 4, "latency_profile": None}, r"match=latency requires a device profile"),
        ({"num_blocks": 4, "bits": 4}, r"bits=4 has no effect with match=latency; use match=byte"),
    ],
)
def test_what_the_profile_cannot_tell_is_refused(path, arguments, message):
    with pytest.raises(ValueError, match=message):
        solve_budget(**({"budget": 3.0} | match(path) | arguments))


def test_settings_of_another_match_are_refused():
    with pytest.raises(ValueError, match=r"match=bytes requires the bits per weight; give bits"):
        solve_budget(1e6, 4, match="bytes")
    for name, value in (("bits", 4), ("embedding_bits", 8), ("latency_profile", "here.json")):
        with pytest.raises(ValueError, match=f"{name}={value} has no effect with match=body; use"):
            solve_budget(1e6, 4, match="body", **{name: value})


def test_a_profile_of_another_device_is_accepted_only_by_name(tmp_path):
    path = write_profile(tmp_path / "phone.json", device="Phone 7")
    message = (
        r"was measured on 'Phone 7', but this machine is '.*'; measure .* or give latency_device="
        r"'Phone 7'"
    )
    with pytest.raises(ValueError, match=message):
        solve_budget(3.0, 4, **match(path))
    with pytest.raises(ValueError, match=r"on 'Phone 7', but latency_device is 'Phone 8'"):
        solve_budget(3.0, 4, **match(path, latency_device="Phone 8"))
    assert abs(solve_budget(2.0, 4, **match(path, latency_device="Phone 7")).deviation) < 0.02


def test_files_that_are_no_profile_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"measure it with `mobilellm device-profile --out"):
        solve_budget(3.0, 4, **match(str(tmp_path / "none.json")))
    (tmp_path / "other.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"other.json is not a device profile \(it is another"):
        solve_budget(3.0, 4, **match(str(tmp_path / "other.json")))
    (tmp_path / "text.json").write_text("ms", encoding="utf-8")
    with pytest.raises(ValueError, match=r"text.json is not a device profile \(Expecting value"):
        solve_budget(3.0, 4, **match(str(tmp_path / "text.json")))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"depths": (4,), "widths": range(64, 257, 16)}, "one value of depths, 4; at least two"),
        ({"widths": (64,), "depths": range(2, 9)}, "one value of widths, 64; at least two"),
        ({"depths": (2, 4), "widths": (64, 128)}, r"has 4 shapes, and 6 are required; meas"),
        ({"times": lambda model: 1.0 * model.num_layers}, r"take no more time if they have more w"),
    ],
)  # fmt: skip
def test_profiles_that_determine_no_law_are_refused(made, message):
    with pytest.raises(ValueError, match=message):
        LatencyModel(profile(**made))


def test_times_that_are_no_times_are_refused():
    with pytest.raises(ValueError, match=r"decode_ms_per_token=0.0 must be above 0; measure it ag"):
        profile(times=lambda model: 0.0)
    with pytest.raises(ValueError, match="needs at least one measured shape; 0 were given"):
        profile(shapes=())
    mixed = (*profile().shapes, dataclasses.replace(
        profile().shapes[0], model=shape(2, 64, 192, vocab=1024)))  # fmt: skip
    with pytest.raises(ValueError, match=r"vocabularies of several sizes \[512, 1024\]"):
        LatencyModel(profile(shapes=mixed))
