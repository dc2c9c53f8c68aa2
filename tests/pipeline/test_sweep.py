"""What would stop a later trial of a sweep when it prepares its data is found before the first."""

import json

import pytest

from mobilellm.cli.errors import CommandError
from mobilellm.data import TokenizedData, prepare_data
from mobilellm.hydra_app.configuration import config_loader
from mobilellm.hydra_app.sweep_check import check_sweep
from mobilellm.pipeline.sweep import check_data_folders, check_run


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(f"{name} text of its own\n" * 2000, encoding="utf-8")
    (folder / "copy.txt").write_bytes((folder / "a.txt").read_bytes())
    return folder


@pytest.fixture
def sweep(tmp_path, tiny_overrides, texts):
    kept = [o for o in tiny_overrides if not o.startswith(("data.", "prepared_dir"))]

    def check(*overrides):
        lines = [*kept, f"prepared_dir={tmp_path}/prepared", *overrides, "hydra.mode=MULTIRUN"]
        with config_loader() as loader:
            return check_sweep(loader, "train", lines, check_run, check_data_folders)

    return check


def test_two_corpora_in_one_folder_are_refused_before_the_first_trial(sweep, texts):
    a, b = texts / "a.txt", texts / "b.txt"
    with pytest.raises(
        CommandError,
        match=r"data.train=\S*a.txt' and '\S*data.train=\S*b.txt' wou"
        r"ld prepare different data in the same folder, \S*mine-\d+ \(data.train: "
        r"\S*b.txt has different contents\); start a command for each, .* no trial",
    ):
        sweep(f"data.train={a},{b}", "data.name=mine")
    assert len(sweep(f"data.train={a},{b}")) == 2  # each has a folder of its own
    # The same text by another name is the same data, and so is what preparing does not depend on.
    assert len(sweep(f"data.train={a},{texts / 'copy.txt'}", "data.name=mine")) == 2
    assert len(sweep(f"data.train={a}", "data.document_mask=true,false", "seed=0,1")) == 4
    assert len(sweep(f"data.train={a}", "data.name=one,two", "data.document=file")) == 2


def test_options_that_share_a_given_folder(sweep, texts, tmp_path):
    train = f"data.train={texts / 'a.txt'}"
    with pytest.raises(CommandError, match=r"data.document was line, now file"):
        sweep(train, "data.document=line,file")
    with pytest.raises(CommandError, match=r"data.vocab_size was 512, now 600"):
        sweep(train, f"data.dir={tmp_path}/mine", "model.vocab_size=512,600")


def test_missing_corpora_and_foreign_folders(sweep, texts, tmp_path):
    with pytest.raises(CommandError, match=r"nowhere.txt does not exist"):
        sweep(f"data.train={texts}/a.txt,{texts}/nowhere.txt")
    ids = tmp_path / "ids.jsonl"
    ids.write_text(json.dumps({"token_ids": list(range(100))}), encoding="utf-8")
    other = TokenizedData(train=str(ids), vocab_size=100, dir=str(tmp_path / "mine"))
    prepare_data(other, progress=False)
    with pytest.raises(
        CommandError, match=r"mine was prepared from different inputs: .*; no trial was"
    ):
        sweep(f"data.train={texts}/a.txt", f"data.dir={tmp_path}/mine", "seed=0,1")


def test_finished_trials_need_no_data(sweep, texts):
    train = f"data.train={texts / 'a.txt'}"
    for trial in sweep(train, "seed=0,1"):
        trial.folder.mkdir(parents=True)
        summary = json.dumps({"status": "finished"})
        (trial.folder / "summary.json").write_text(summary, encoding="utf-8")
    (texts / "a.txt").unlink()
    assert len(sweep(train, "seed=0,1")) == 2
