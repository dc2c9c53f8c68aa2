"""`mobilellm extract`: a smaller model from a saved one, and what it refuses."""

import json
import logging

import pytest
import torch
from reference_models import assert_close

from mobilellm.checkpoint import load_model
from mobilellm.commands import extract
from mobilellm.evaluation.validation import sum_losses
from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline.cut_to_shape import cut_most_important, pruning_steps
from mobilellm.pipeline.extract import extract_folder
from mobilellm.search.supernet import Supernet
from mobilellm.search.supernet_shape import shape_inside


def test_the_saved_model_is_the_slice(tiny_run_folder, tmp_path, caplog):
    cfg = compose("extract", ["model.num_blocks=1", "model.intermediate_size=8"])
    with caplog.at_level(logging.INFO, logger="mobilellm"):
        extract_folder(cfg, tiny_run_folder, tmp_path / "small")
    whole, small = load_model(tiny_run_folder / "model"), load_model(tmp_path / "small")
    ids = torch.randint(0, whole.config.vocab_size, (2, 9))
    slices = Supernet(whole).sub_network(small.config)
    assert_close(small(ids).logits, slices(ids).logits, 1e-5)
    assert small.config == shape_inside(whole.config, num_blocks=1, intermediate_size=8)
    assert (tmp_path / "small/tokenizer.model").is_file()
    report = json.loads((tmp_path / "small/extraction.json").read_text(encoding="utf-8"))
    assert report["parameters"]["stored"] == sum(p.numel() for p in small.parameters())
    assert report["val_loss"] is None
    assert f"{report['parameters']['stored']:,} parameters" in caplog.text


def test_whole_layers_are_taken(saved_run, tmp_path):
    report = extract_folder(compose("extract", ["layers=[1]"]), saved_run, tmp_path / "shallow")
    whole, shallow = load_model(saved_run / "model"), load_model(tmp_path / "shallow")
    assert (report.layers, shallow.config.num_blocks) == ((1,), 1)
    ids = torch.randint(0, whole.config.vocab_size, (2, 9))
    hidden = whole.norm(whole.run_layers(whole.embed(ids), slice(1, 2)))
    assert_close(shallow(ids).hidden, hidden, 1e-6)


def test_the_most_important_units_are_chosen_on_the_runs_data(
    tiny_run_folder, prepared_dir, tmp_path, caplog
):
    options = [
        f"prepared_dir={prepared_dir}", "sequence_length=32", "validation_tokens=512",
        "calibration_tokens=1024", "units=important", "model.num_blocks=1",
        "model.hidden_size=4", "model.intermediate_size=8",
    ]  # fmt: skip
    with caplog.at_level(logging.INFO, logger="mobilellm"):
        report = extract_folder(compose("extract", options), tiny_run_folder, tmp_path / "cut")
    cut = load_model(tmp_path / "cut")
    assert (cut.config.num_blocks, cut.config.hidden_size, cut.config.intermediate_size) == (
        1, 4, 8
    )  # fmt: skip
    assert report.val_loss > 0
    assert report.source_val_loss > 0
    assert f"distillation.teacher={tiny_run_folder}" in caplog.text


def test_a_cut_by_importance_is_better_than_leading_slices(tiny_run_folder, prepared_dir, tmp_path):
    """On a model whose second block does nothing and whose first channels are useless."""
    from mobilellm.pipeline.compress_data import data_to_compress_on

    model = load_model(tiny_run_folder / "model")
    with torch.no_grad():
        model.blocks[0].feed_forward.down_proj.weight[:, :8] *= 0.0
    cfg = compose("extract", [f"prepared_dir={prepared_dir}", "sequence_length=32",
                              "validation_tokens=1024"])  # fmt: skip
    data = data_to_compress_on(cfg, tiny_run_folder, model)
    shape = shape_inside(model.config, intermediate_size=8)
    cut = cut_most_important(model, shape, data.calibration(1024))
    whole = sum_losses(model, data.validation()).loss
    leading = sum_losses(
        Supernet(model).sub_network(shape), data.validation(), device=torch.device("cpu")
    ).loss
    assert abs(sum_losses(cut, data.validation()).loss - whole) < abs(leading - whole)


def test_each_removal_is_one_step_of_pruning():
    from reference_models import make_config

    config = make_config(num_blocks=6)
    shape = shape_inside(config, num_blocks=4, intermediate_size=16,
                         num_attention_heads=2, num_key_value_heads=1)  # fmt: skip
    first, second = pruning_steps(config, shape)
    assert (first.keep_blocks, first.keep_channels, first.keep_heads) == (4 / 6, 0.4, 0.5)
    assert (second.keep_heads, second.head_unit) == (2 / 3, "within_groups")
    assert pruning_steps(config, shape_inside(config, hidden_size=8)) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "no size is given; give at least one of model.num_blocks=…, model.hidden_size=…"),
        (["model.num_blocks=7"], "num_blocks=7 is not contained in a model of 2 blocks"),
        (["model.hidden_size=wide"], "model.hidden_size='wide' must be"),
        (["model.num_blocks=0"], "model.num_blocks=0 must be"),
        (["model.num_blocks=1", "data=text", "data.train=a.txt"], "reads no data; leave data=…"),
        (["model.num_blocks=1", "units=best"], "units='best' must be"),
        (["layers=[0,5]"], "layers contains 5, but the model has 2 layers"),
        (["layers=[]"], "layers is empty; give at least one layer"),
        (["layers=1"], "layers=1 must be a list"),
        (["layers=[1]", "model.hidden_size=4"], "but model.hidden_size=4 cuts units; give one of"),
        (["layers=[1]", "units=important"], "but units=important cuts units; give one of them"),
        (
            ["model.num_blocks=2", "model.intermediate_size=[8,4]", "units=important"],
            "intermediate_size differs between the blocks of the shape",
        ),
    ],
)
def test_impossible_extractions_are_refused(overrides, message, saved_run, tmp_path):
    with pytest.raises(ValueError, match=message):
        extract_folder(compose("extract", overrides), saved_run, tmp_path / "small")
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("shape", ["model.num_blocks=1", "layers=[0]"])
@pytest.mark.parametrize("setting", ["calibration_tokens=64", "seed=0", "sequence_length=16"])
def test_settings_of_data_that_are_not_read_are_refused(
    shape, setting, saved_run, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        extract.main([str(saved_run), "--out", str(tmp_path / "small"), shape, setting])
    errors = capsys.readouterr().err
    assert stop.value.code == 2
    assert errors.startswith(f"error: {setting} has no effect without units=important, since")
    assert errors.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_folder_in_use_is_not_overwritten(saved_run, tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small/mine.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(ValueError, match="is in use and is never overwritten; give a new folder"):
        extract_folder(compose("extract", ["model.num_blocks=1"]), saved_run, tmp_path / "small")
