"""What `scripts/prepare_logits.py` refuses, before the teacher runs."""

import shutil
from pathlib import Path

import pytest
from logit_making import files_of, make_store

from mobilellm.checkpoint import save_model
from mobilellm.data import prepare_data
from mobilellm.hydra_app.configuration import compose, instantiate


@pytest.mark.usefixtures("never_runs")
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("k=513", "k=513 must be at most vocab_size=512"),
        ("k=0", "k=0 must be a whole number of at least 1"),
        ("precision=float", "precision='float' is not known; use one of fixed16, fixed8"),
        ("packing=zip", "packing='zip' is not known; use one of plain, bits"),
        ("temperature=0", "temperature=0 must be above 0"),
        ("sequence_length=4096", "longer than the teacher's context of 2048 tokens"),
        ("sequence_length=0", "sequence_length=0 must be a whole number"),
        ("micro_batch_size=1.5", "micro_batch_size=1.5 must be a whole number"),
        ("windows_per_shard=0", "windows_per_shard=0 must be a whole number"),
        ("teacher_precision=int8", "teacher_precision='int8' is not known; use one of auto"),
        ("accelerator=tpu", "^accelerator='tpu' is not known; use one of auto, cpu"),
    ],
)
def test_what_is_refused_before_data_is_read(teacher, options, tmp_path, option, message):
    unread = [f"prepared_dir={tmp_path}/none"]
    with pytest.raises(ValueError, match=message):
        make_store(teacher, options, *unread, option)
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("never_runs")
def test_no_teacher(teacher, options, tmp_path):
    with pytest.raises(FileNotFoundError, match="teacher=nowhere does not exist"):
        make_store(Path("nowhere"), options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds neither a model nor a logit store"):
        make_store(tmp_path / "empty", options)
    assert not (tmp_path / "store").exists()


def test_a_store_is_no_teacher(teacher, options, tmp_path):
    store = make_store(teacher, options)
    with pytest.raises(ValueError, match="is a logit store; give the folder of a model"):
        make_store(store.folder, options, f"out={tmp_path}/other")


@pytest.mark.usefixtures("never_runs")
def test_a_folder_in_use(teacher, options, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds other files, such as thesis.txt; choose a new"):
        make_store(teacher, options)
    assert files_of(tmp_path / "store") == {"thesis.txt": b"years of work"}


def test_other_inputs_in_the_same_folder(teacher, model, options, prepared, monkeypatch):
    store = make_store(teacher, options)
    before = files_of(store.folder)
    for option, message in (
        ("k=7", "k was 6, now 7"),
        ("precision=fixed8", "precision was fixed16, now fixed8"),
        ("sequence_length=16", "sequence_length was 32, now 16"),
        ("data.document_mask=true", "document_mask was False, now True"),
    ):
        with pytest.raises(ValueError, match=f"made from other inputs: .*{message}.*; choose"):
            make_store(teacher, options, option)
    model.norm.weight.data[0] += 1
    save_model(model, teacher, prepared.tokenizer_path)
    with pytest.raises(ValueError, match="made from other inputs: teacher_hash was "):
        make_store(teacher, options)
    assert files_of(store.folder) == before


@pytest.mark.usefixtures("never_runs")
def test_another_tokenizer_is_refused(teacher, options, corpus, tmp_path):
    """The data were prepared as given, with a tokenizer that is not the teacher's."""
    other = instantiate(
        compose(
            "prepare_data",
            ["model=debug", "data=text", f"data.train={corpus}/ast.txt", "data.held_out=0.2",
             "data.document=blank_line", f"prepared_dir={tmp_path}/other"],
        ).data
    )  # fmt: skip
    tokenizer = prepare_data(other, progress=False).tokenizer_path
    assert tokenizer is not None
    shutil.copy(tokenizer, teacher / "tokenizer.model")
    with pytest.raises(ValueError, match=r"the tokenizer of the teacher .* differs from that of"):
        make_store(teacher, options)


@pytest.mark.usefixtures("never_runs")
def test_a_disk_without_room(teacher, options, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ValueError, match=r"the store takes .*B and .*B are free in"):
        make_store(teacher, options)
