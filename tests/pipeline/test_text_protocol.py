"""Documents begin and end as in the training of the weights that read them."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_tokenizers import make_byte_level, make_tokenizer

from mobilellm.checkpoint import save_model
from mobilellm.data.tokenizers import open_tokenizer
from mobilellm.formats.huggingface import export_huggingface
from mobilellm.formats.model_folder import find_tokenizer, open_model, tokenizer_files
from mobilellm.hydra_app.configuration import compose
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.pipeline.compress_data import data_to_compress_on
from mobilellm.pipeline.identity import config_hash
from mobilellm.pipeline.plan import plan_run
from mobilellm.pipeline.prepare_logits import prepare_logits
from mobilellm.pipeline.tokens import model_with_ids
from mobilellm.pipeline.train import train
from mobilellm.run_settings import flat_config

TEACHER = "distillation.teacher"


def make_model(**ids):
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=300, hidden_size=16, intermediate_size=24, num_blocks=1, num_attention_heads=2,
        **ids,
    )  # fmt: skip
    return MobileLLM(config)


@pytest.fixture
def begins(tmp_path):
    """A Hugging Face folder with a bare SentencePiece tokenizer, as that of stories260K."""
    path, folder = make_tokenizer(tmp_path / "words"), tmp_path / "begins"
    export_huggingface(make_model(bos_token_id=1, eos_token_id=2), folder, path)
    (folder / "tokenizer_config.json").unlink()
    return folder


@pytest.fixture
def overrides(tmp_path):
    (tmp_path / "corpus").mkdir()
    for number in range(4):
        text = f"the quick brown fox {number} jumps over the lazy dog " * 12
        (tmp_path / "corpus" / f"{number}.txt").write_text(text, encoding="utf-8")
    return ["data=text", f"data.train={tmp_path}/corpus", "data.held_out=0.3",
            f"prepared_dir={tmp_path}/prepared"]  # fmt: skip


def run_of(overrides, tmp_path, *more):
    small = [*overrides, f"output_dir={tmp_path}/outputs", "sequence_length=32",
             "tokens_per_step=64", "max_tokens=128", "trainer=cpu", "logger=csv"]  # fmt: skip
    return plan_run(compose("train", [*small, *more]))


def test_weights_get_the_begin_that_they_were_trained_with(begins, overrides, tmp_path):
    run = run_of(overrides, tmp_path, f"init_from={begins}")
    assert (run.data.add_bos, run.data.add_eos) == (True, False)
    assert (run.config["data"]["add_bos"], run.config["data"]["add_eos"]) == (True, False)
    assert (run.model.bos_token_id, run.model.eos_token_id) == (1, 2)
    both = run_of(overrides, tmp_path, f"init_from={begins}", "data.add_eos=true")
    assert (both.data.add_bos, both.data.add_eos) == (True, True)
    without = run_of(overrides, tmp_path, f"init_from={begins}", "data.add_bos=false")
    data = without.config["data"]
    assert (data["add_bos"], data["add_eos"]) == (False, True)
    assert len({run.identity, both.identity, without.identity}) == 3


def test_a_student_reads_text_as_its_teacher_does(begins, overrides, tmp_path, capsys):
    shape = ["model=debug", "model.vocab_size=300"]
    run = run_of(overrides, tmp_path, *shape, "distillation=forward_kl", f"{TEACHER}={begins}")
    assert (run.data.add_bos, run.data.add_eos) == (True, False)
    assert (run.model.bos_token_id, run.model.eos_token_id) == (1, 2)
    store = prepare_logits(
        compose("prepare_logits", [*overrides, "sequence_length=32", "k=4",
                                   f"out={tmp_path}/logits"]), begins,
    )  # fmt: skip
    prepared = [path for path in (tmp_path / "prepared").iterdir()]
    assert [path.name.startswith("corpus-bos-") for path in prepared] == [True]
    manifest = json.loads((prepared[0] / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["bos_token_id"] == 1
    assert store.manifest["inputs"]["data_hash"] == manifest["hashes"]["train"]
    assert "data.add_bos=true data.add_eos=false" in capsys.readouterr().out.replace("\n", " ")


def test_calibration_begins_alike(begins, overrides, caplog):
    caplog.set_level("INFO")
    cfg = compose("compress", [*overrides, "sequence_length=32"])
    data = data_to_compress_on(cfg, begins, open_model(begins)[0])
    assert data.prepared.bos_token_id == 1
    assert not data.prepared.adds_eos
    assert data.prepared.tokens("train")[:1].tolist() == [1]
    assert "documents begin with token 1 and have no end token (data.add_bos, " in caplog.text


@pytest.mark.parametrize("settings", [None, {"add_bos_token": False}])
def test_one_token_between_documents_is_not_doubled(settings, overrides, tmp_path):
    """As in all models that were trained here."""
    path = make_tokenizer(tmp_path / "words")
    if settings is not None:
        (path.parent / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    folder = tmp_path / "plain"
    save_model(make_model(bos_token_id=2, eos_token_id=2), folder, path)
    run = run_of(overrides, tmp_path, f"init_from={folder}")
    assert (run.data.add_bos, run.config["data"]["add_bos"]) == (None, None)
    assert run.config["data"]["add_eos"] is True


def test_the_identity_of_runs_without_a_begin_is_unchanged(overrides, tmp_path):
    """It is that of runs of the versions that had no such setting."""
    run = run_of(overrides, tmp_path, "model=debug")
    recorded = {k: v for k, v in run.config["data"].items() if k not in ("add_bos",)}
    recorded.pop("tokenizer_kind")
    assert recorded["add_eos"] is True
    assert config_hash(run.config | {"data": recorded}) == run.identity
    byte_level = run_of(overrides, tmp_path, "model=debug", "data.tokenizer_kind=byte_level")
    assert byte_level.identity != run.identity
    assert (byte_level.model.bos_token_id, byte_level.model.eos_token_id) == (0, 0)
    assert "data.tokenizer_kind" in flat_config(byte_level.config)


def test_a_new_model_takes_the_begin_of_its_tokenizer(overrides, tmp_path):
    settings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "add_bos_token": True}
    path = make_byte_level(tmp_path / "made", settings=settings)
    shape = ["model=debug", "model.vocab_size=300", f"data.tokenizer={path}"]
    run = run_of(overrides, tmp_path, *shape)
    assert (run.model.bos_token_id, run.model.eos_token_id) == (1, 2)
    assert run.config["data"]["add_bos"] is True
    with pytest.raises(
        ValueError, match=r"model.bos_token_id=2 contradicts the data, whose documents begin with "
        r"token 1; leave it out, the model then has bos_token_id=1",
    ):  # fmt: skip
        model_with_ids(replace(run.model, bos_token_id=2), run.data, ["model.bos_token_id=2"])


def test_a_model_made_from_another_says_how_texts_begin(begins, overrides, tmp_path):
    """Its folder is no longer one of Hugging Face, where that is the rule."""
    assert (begins / "tokenizer.model").is_file()
    assert open_tokenizer(find_tokenizer(begins)).adds_bos is None
    model, _ = open_model(begins)
    save_model(model, tmp_path / "made", tokenizer_files(begins))
    made = open_tokenizer(find_tokenizer(tmp_path / "made"))
    assert (made.adds_bos, made.adds_eos, made.bos_id, made.eos_id) == (True, False, 1, 2)
    assert made.fingerprint() == open_tokenizer(find_tokenizer(begins)).fingerprint()
    run = run_of(overrides, tmp_path, f"init_from={tmp_path}/made")
    assert (run.config["data"]["add_bos"], run.config["data"]["add_eos"]) == (True, False)
    # Without such settings, models of this project were trained with end-of-text tokens only.
    save_model(model, tmp_path / "bare", begins / "tokenizer.model")
    run = run_of(overrides, tmp_path, f"init_from={tmp_path}/bare")
    assert (run.config["data"]["add_bos"], run.config["data"]["add_eos"]) == (None, True)


def test_a_trained_model_says_how_its_texts_began(begins, overrides, tmp_path):
    run = [*overrides, f"output_dir={tmp_path}/outputs", "sequence_length=32", "logger=csv",
           "tokens_per_step=64", "max_tokens=64", "trainer=cpu", "optimizer=adamw",
           "optimizer.learning_rate=1e-4"]  # fmt: skip
    summary = train(compose("train", [*run, f"init_from={begins}"]))
    assert (summary["data"]["bos_token_id"], summary["data"]["adds_eos"]) == (1, False)
    [folder] = (tmp_path / "outputs/default").iterdir()
    tokenizer = open_tokenizer(find_tokenizer(folder))
    assert (tokenizer.adds_bos, tokenizer.adds_eos) == (True, False)
