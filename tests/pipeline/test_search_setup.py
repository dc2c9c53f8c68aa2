"""What a search knows about the models that its trials will save."""

import json

import pytest
from omegaconf import DictConfig
from simulated_profile import true_time, write_profile

from mobilellm.accounting import count_parameters
from mobilellm.accounting.storage import stored_tensors
from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline.results import entries_with_numbers
from mobilellm.pipeline.search.setup import read_search
from mobilellm.search.space import Candidate, Rejection

BITS = ["search_space=bits", "model=by_shape", "model.vocab_size=512", "compression=qat",
        "optimizer.learning_rate=1e-2"]  # fmt: skip


def composed(*overrides: str) -> DictConfig:
    return compose("search", [*BITS, "search.constraints.max_bytes=4e5", *overrides])


def test_bytes_are_those_of_the_packed_file_and_fewer_bits_allow_more_width():
    checks = read_search(composed("search.constraints.bits=32")).feasibility
    widths = {}
    for bits in (4, 8):
        found = checks.check({"model.num_blocks": 4, "compression.bits": bits})
        assert isinstance(found, Candidate)
        assert sum(one.bits for one in stored_tensors(found.model, 32)) == pytest.approx(
            8 * found.costs["bytes"]
        )
        widths[bits] = found.settings["model.hidden_size"]
    assert widths[4] > widths[8]


def test_a_group_that_divides_no_width_is_an_illegal_shape():
    checks = read_search(
        composed("compression.group=128", "search_space.model.hidden_size.largest_that_fits=false")
    ).feasibility
    found = checks.check({"model.num_blocks": 2, "model.hidden_size": 96, "compression.bits": 4})
    assert isinstance(found, Rejection)
    assert "group=128 does not divide" in found.message


def test_a_size_that_is_known_only_after_training_is_refused():
    with pytest.raises(ValueError, match=r"costs are known only after.*compression=qat"):
        read_search(composed("compression=low_rank", "~search_space.compression"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("foo", r"has foo, which no trial reports; use a cost of the shape \(stored, .*val_loss"),
        ("-val_los", r"has val_los, which no trial reports; .* such as val_loss"),
    ],
)
def test_an_objective_that_no_run_reports_is_refused_before_the_first_trial(name, message):
    with pytest.raises(ValueError, match=message):
        read_search(composed(f"search.objectives=[{name}]"))


def test_objectives_of_callbacks_are_known_only_when_a_trial_ends():
    given = composed("callbacks=label_accuracy", "search.objectives=[-val_accuracy]")
    assert read_search(given).settings.parsed_objectives[0].name == "val_accuracy"


def test_every_number_of_a_summary_may_be_an_objective(tiny_run_folder):
    summary = json.loads((tiny_run_folder / "summary.json").read_text(encoding="utf-8"))
    numbers = {name for name, value in summary.items() if isinstance(value, int | float)}
    assert {"val_loss", "wall_seconds", "peak_memory_bytes"} <= numbers <= entries_with_numbers()


def test_a_space_given_as_a_whole_that_cannot_be_merged_is_named():
    given = "search_space={model: {hidden_size: [32, 64]}}"
    with pytest.raises(ValueError, match=r"search_space=.* give such keys one by one, such as"):
        compose("search", ["search_space=depth_and_width", given])


def test_the_latency_of_quantized_models_is_not_predicted(tmp_path):
    path = tmp_path / "device.json"
    write_profile(path, depths=(2, 4, 16), widths=(32, 64, 128, 256), vocab=512, times=true_time)
    with pytest.raises(ValueError, match="latency_profile is of models of floats"):
        read_search(composed(f"search.constraints.latency_profile={path}"))


def test_energy_counts_every_application_of_a_shared_block():
    plain = ["search_space=depth_and_width", "compression=none", "model.hidden_size=64"]
    setup = read_search(composed(*plain, "search.objectives=[val_loss,energy]"))
    limits = setup.feasibility.constraints
    once, twice = (
        setup.feasibility.build(
            {"model.num_blocks": 2, "model.hidden_size": 64, "model.block_repeats": repeats}
        )
        for repeats in (1, 2)
    )
    assert count_parameters(once).stored == count_parameters(twice).stored
    body = count_parameters(once).body
    difference = limits.costs(twice)["energy"] - limits.costs(once)["energy"]
    assert difference == pytest.approx(1e-10 * (body - 64), rel=1e-6)
