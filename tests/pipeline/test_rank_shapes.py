"""`mobilellm rank-shapes` on a supernet that was really trained, and runs that were written."""

import json

import pytest

from mobilellm.checkpoint import load_model
from mobilellm.evaluation.validation import sum_losses
from mobilellm.models import ModelConfig
from mobilellm.pipeline.compress_data import data_to_compress_on
from mobilellm.pipeline.rank_shapes import RankOptions, rank_shapes
from mobilellm.search.supernet import extract
from mobilellm.search.supernet_space import SupernetSpace


@pytest.fixture
def folders(tiny_run, tmp_path):
    """A trained supernet of 12 shapes, and summaries of nine runs of some of them."""
    facts = tiny_run(
        "distillation=supernet", "distillation.space.num_blocks=[1,2]",
        "distillation.space.hidden_size=[4,8]", "distillation.space.intermediate_size=[4,8,16]",
        "experiment_name=super",
    )  # fmt: skip
    run = next((tmp_path / "outputs/super").iterdir())
    config = (run / "config.yaml").read_text(encoding="utf-8")
    space = SupernetSpace(**facts["supernet"]["space"])
    for index, shape in enumerate(list(space.shapes(ModelConfig.from_dict(facts["model"])))[:9]):
        folder = tmp_path / f"alone/{index}"
        folder.mkdir(parents=True)
        alone = {k: v for k, v in facts.items() if k != "supernet"}
        alone |= {"model": shape.to_dict(), "val_loss": 7 - 0.1 * index}
        (folder / "summary.json").write_text(json.dumps(alone), encoding="utf-8")
        (folder / "config.yaml").write_text(config, encoding="utf-8")
    return run, tmp_path / "alone"


def test_scores_are_the_losses_of_extracted_models(folders, tmp_path, monkeypatch):
    run, alone = folders
    ranking, page = rank_shapes(run, [alone], tmp_path / "ranking", RankOptions())
    assert page.is_file()
    assert len(ranking.shapes) == 12
    whole = load_model(run / "model")
    from omegaconf import DictConfig, OmegaConf

    config = DictConfig(OmegaConf.load(run / "config.yaml"))
    config.micro_batch_size = 3
    config.data = None
    data = data_to_compress_on(config, run, whole)
    for row in (ranking.shapes[0], ranking.shapes[7]):
        own = sum_losses(extract(whole, row.shape), data.validation()).loss
        assert row.score == pytest.approx(own, rel=1e-5)
    largest = next(row for row in ranking.shapes if row.shape == whole.config)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert largest.score == pytest.approx(summary["val_loss"], rel=1e-5)
    smallest = summary["supernet"]["val_loss_smallest"]
    assert any(row.score == pytest.approx(smallest, rel=1e-5) for row in ranking.shapes)
    facts = json.loads((tmp_path / "ranking/ranking.json").read_text(encoding="utf-8"))
    assert facts["kendall_tau"]["models"] == 9
    lines = (tmp_path / "ranking/ranking.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 13
    # Again, with three scores lost: only these are measured.
    scores = tmp_path / "ranking/scores.jsonl"
    kept = scores.read_text(encoding="utf-8").splitlines()[:-3]
    scores.write_text("\n".join(kept) + "\n", encoding="utf-8")
    measured = []

    def counted(*arguments, **options):
        measured.append(1)
        return sum_losses(*arguments, **options)

    monkeypatch.setattr("mobilellm.search.supernet_scores.sum_losses", counted)
    again, _ = rank_shapes(run, [alone], tmp_path / "ranking", RankOptions())
    assert len(measured) == 3
    assert [row.score for row in again.shapes] == pytest.approx([r.score for r in ranking.shapes])


def test_a_folder_with_other_files_is_not_written_to(folders, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("kept", encoding="utf-8")
    with pytest.raises(ValueError, match="is in use and is never overwritten; give a new folder"):
        rank_shapes(folders[0], [folders[1]], tmp_path / "mine", RankOptions())


def test_senseless_options_are_refused():
    with pytest.raises(ValueError, match="shapes=1 must be"):
        RankOptions(shapes=1)
