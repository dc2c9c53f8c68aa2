"""Given weights keep their tokenizer, and a model ends texts with the token that its data do."""

from pathlib import Path

import pytest
import torch
import yaml

from mobilellm.checkpoint import load_model, save_model
from mobilellm.data import PreparedData
from mobilellm.data.tokenizers.sentencepiece_training import train_sentencepiece
from mobilellm.hydra_app.configuration import compose, instantiate
from mobilellm.models import ModelConfig
from mobilellm.pipeline.compress import compress_folder
from mobilellm.pipeline.prepare_logits import prepare_logits
from mobilellm.pipeline.tokens import model_with_ids
from mobilellm.pipeline.train import train


def folder_of(summary, tmp_path):
    return next((tmp_path / "outputs").glob(f"*/{summary['run']}"))


def without_tokenizer(folder, target, *, other=None):
    """A copy of the model without its tokenizer.model, perhaps with a file of another kind."""
    save_model(load_model(folder / "model"), target)
    if other is not None:
        (target / other).write_text("{}", encoding="utf-8")
    return target


def options_of(tiny_overrides, tmp_path, *names):
    """Data in a folder of its own, where nothing is prepared."""
    kept = [o for o in tiny_overrides if o.split("=")[0] in ("data", "data.train", *names)]
    return [*kept, f"prepared_dir={tmp_path}/prepared"]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            "vocab.json",
            "contains vocab.json, which is not supported, and no token",
        ),
        (
            None,
            "contains no tokenizer.model or tokenizer.json, and the token ids of a new",
        ),
    ],
)
def test_no_tokenizer_is_ever_trained_for_given_weights(
    other, said, trained, tiny_overrides, tmp_path
):
    """In none of the commands, and before any text is read."""
    folder = without_tokenizer(trained, tmp_path / "bare", other=other)
    data = options_of(tiny_overrides, tmp_path)
    run = [o for o in tiny_overrides if not o.startswith("prepared_dir")] + data[-1:]
    teacher = "distillation.teacher"
    calls = {
        f"init_from={folder}": lambda: train(compose("train", [*run, f"init_from={folder}"])),
        f"{teacher}={folder}": lambda: train(
            compose("train", [*run, "distillation=forward_kl", f"{teacher}={folder}"])
        ),
        f"MODEL_DIR {folder}": lambda: compress_folder(
            compose("compress", [*data, "compression=magnitude"]), folder, tmp_path / "out"
        ),
        f"TEACHER_DIR {folder}": lambda: prepare_logits(compose("prepare_logits", data), folder),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=rf"^{name}: {folder} {said}"):
            call()
    assert not (tmp_path / "prepared").exists()
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_given_by_name_is_taken_for_weights_without(trained, tiny_run, tmp_path):
    folder = without_tokenizer(trained, tmp_path / "bare")
    tokenizer = trained / "model/tokenizer.model"
    summary = tiny_run(
        f"init_from={folder}", f"data.tokenizer={tokenizer}", "experiment_name=b", "max_tokens=128"
    )
    saved = folder_of(summary, tmp_path) / "model/tokenizer.model"
    assert saved.read_bytes() == tokenizer.read_bytes()


def test_token_ids_are_taken_as_the_models_own(trained, tiny_run, tmp_path):
    folder = without_tokenizer(trained, tmp_path / "bare")
    ids = write_ids(tmp_path, end=2)
    summary = tiny_run(*ids, f"init_from={folder}", "experiment_name=b", "max_tokens=128")
    assert summary["status"] == "finished"
    assert summary["hashes"]["tokenizer"] is None


def test_another_tokenizer_of_the_same_size_is_refused(trained, tiny_overrides, corpus, tmp_path):
    other = tmp_path / "other.model"
    other.write_bytes(train_sentencepiece([(corpus / "ast.txt").read_bytes()], 512))
    run = [*tiny_overrides, f"init_from={trained}", f"data.tokenizer={other}"]
    with pytest.raises(ValueError, match=r"other.model differs from the tokenizer of init_fr"):
        train(compose("train", run))
    cfg = compose("compress", [f"data.tokenizer={other}", *options_of(tiny_overrides, tmp_path)])
    with pytest.raises(ValueError, match=r"other.model differs from the tokenizer of MODEL_DI"):
        compress_folder(cfg, trained, tmp_path / "out")
    assert not (tmp_path / "prepared").exists()


def test_a_student_is_taught_in_its_teachers_tokens(trained, tiny_run, tmp_path):
    """Where nothing is prepared yet, no second tokenizer is trained."""
    summary = tiny_run(
        "distillation=forward_kl", f"distillation.teacher={trained}",
        "experiment_name=taught", f"prepared_dir={tmp_path}/prepared", "data.max_megabytes=0.3",
        "max_tokens=128",
    )  # fmt: skip
    saved = folder_of(summary, tmp_path) / "model/tokenizer.model"
    assert saved.read_bytes() == (trained / "model/tokenizer.model").read_bytes()


def write_ids(tmp_path, *, end):
    """Overrides for token ids of documents that end with `end`."""
    draw = torch.Generator().manual_seed(0)
    (tmp_path / "ids").mkdir()
    with (tmp_path / "ids/train.jsonl").open("w", encoding="utf-8") as file:
        for _ in range(60):
            ids = torch.randint(6, 500, (60,), generator=draw).tolist()
            file.write(f'{{"token_ids": {[*ids, end]}}}\n')
    return ["data=tokenized_jsonl", f"data.train={tmp_path}/ids/train.jsonl",
            f"data.dir={tmp_path}/ids/shards"]  # fmt: skip


@pytest.fixture
def t5(corpus, tmp_path):
    """A tokenizer with other special tokens: pad 0, end of text 1, unknown 2, no beginning."""
    from sentencepiece import SentencePieceTrainer

    SentencePieceTrainer.train(
        input=str(corpus / "ast.txt"), model_prefix=str(tmp_path / "t5"), vocab_size=512,
        model_type="bpe", byte_fallback=True, minloglevel=2, pad_id=0, eos_id=1, unk_id=2,
        bos_id=-1,
    )  # fmt: skip
    return tmp_path / "t5.model"


def ids_of(folder):
    config = load_model(folder / "model").config
    return config.eos_token_id, config.bos_token_id


def test_a_new_model_ends_texts_as_its_tokenizer_does(t5, tiny_run, tmp_path, caplog):
    caplog.set_level("INFO")
    summary = tiny_run(f"data.tokenizer={t5}", "max_tokens=128")
    run = folder_of(summary, tmp_path)
    prepared = PreparedData(Path(summary["data"]["dir"]))
    assert prepared.eos_token_id == 1
    assert prepared.tokens("train")[: 1 << 20].tolist().count(1) > 5, "documents end with it"
    assert ids_of(run) == (1, 1)
    assert "texts end with token 1 and begin with token 1, as in the data (the conf" in caplog.text
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["model"]
    assert (config["eos_token_id"], config["bos_token_id"]) == (1, 1)
    assert summary["model"]["eos_token_id"] == 1


@pytest.mark.parametrize(
    ("model", "found"),
    [([], (7, 7)), (["model.bos_token_id=5"], (7, 5))],
    ids=["alike", "beginning of its own"],
)
def test_a_new_model_ends_texts_as_its_token_ids_do(model, found, tiny_run, tmp_path):
    ids = write_ids(tmp_path, end=7)
    summary = tiny_run(*ids, "data.eos_token_id=7", *model, "max_tokens=128")
    assert ids_of(folder_of(summary, tmp_path)) == found


def test_ids_asked_for_are_never_replaced_in_silence():
    data = instantiate(compose("train", ["data=text", "data.train=x"]).data)
    model = ModelConfig(vocab_size=512, hidden_size=8, intermediate_size=8, num_blocks=1,
                        num_attention_heads=1, eos_token_id=5, bos_token_id=1)  # fmt: skip
    for name, wanted in (("eos_token_id", 5), ("bos_token_id", 1)):
        with pytest.raises(
            ValueError,
            match=rf"model.{name}={wanted} contradicts the data, whose documents are "
            rf"separated by token 2; leave it out, the model then has {name}=2",
        ):
            model_with_ids(model, data, [f"model.{name}={wanted}"])
    found = model_with_ids(model, data, ["model.eos_token_id=2", "seed=5"])
    assert (found.eos_token_id, found.bos_token_id) == (2, 2)


def test_given_weights_that_stop_at_another_token_are_refused(
    trained, t5, tiny_overrides, tmp_path
):
    """Whoever asks for them: their tokenizer ends texts with 1, their config.json with 2."""
    save_model(load_model(trained / "model"), tmp_path / "odd", t5)
    folder, data = tmp_path / "odd", options_of(tiny_overrides, tmp_path)
    teacher = "distillation.teacher"
    run = [*tiny_overrides, *data[-1:]]
    calls = (
        lambda: train(compose("train", [*run, f"init_from={folder}"])),
        lambda: train(
            compose("train", [*run, "distillation=forward_kl", f"{teacher}={folder}"])
        ),
        lambda: compress_folder(
            compose("compress", [*data, "compression=magnitude"]), folder, tmp_path / "out"
        ),
        lambda: prepare_logits(compose("prepare_logits", data), folder),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match=r"odd stops at token 2 by its config.json, and docum"
                           r"ents of the data end with token 1; correct eos_token_id"):  # fmt: skip
            call()
    assert not (tmp_path / "prepared").exists()
    ids = write_ids(tmp_path, end=7)
    with pytest.raises(ValueError, match=r"end with token 7; use data.eos_token_id=2, or correct"):
        bare = without_tokenizer(trained, tmp_path / "bare")
        train(compose("train", [*run, *ids, "data.eos_token_id=7", f"init_from={bare}"]))


@pytest.mark.parametrize(
    ("eos", "message"),
    [
        (2, r"eos_token_id=2, but the end-of-text token of data.tokenizer=.*t5.model is 1; use"),
        (600, "data.eos_token_id=600 must be a token id below vocab_size=512"),
    ],
)
def test_token_ids_and_their_tokenizer_end_documents_alike(
    eos, message, t5, tiny_overrides, tmp_path
):
    ids = [*write_ids(tmp_path, end=1), f"data.tokenizer={t5}", f"data.eos_token_id={eos}"]
    with pytest.raises(ValueError, match=message):
        train(compose("train", [*tiny_overrides, *ids, f"prepared_dir={tmp_path}/prepared"]))
    assert not (tmp_path / "prepared").exists()


def test_padded_tables_are_fine_everywhere(tiny_run, trained, tiny_overrides, tmp_path):
    """576 rows and 512 tokens: train, go on, teach, compress, all on one data folder."""
    tokenizer = trained / "model/tokenizer.model"
    few = ["data.max_megabytes=0.05", f"prepared_dir={tmp_path}/prepared"]
    padded = ["model.vocab_size=576", f"data.tokenizer={tokenizer}", "max_tokens=128", *few]
    summary = tiny_run(*padded, "experiment_name=padded")
    run, folder = folder_of(summary, tmp_path), summary["data"]["dir"]
    assert load_model(run / "model").config.vocab_size == 576
    assert summary["val_bits_per_byte"] > 0
    further = tiny_run(f"init_from={run}", "experiment_name=further", "max_tokens=128", *few)
    data = [*options_of(tiny_overrides, tmp_path, "data.held_out"), *few]
    store = prepare_logits(
        compose("prepare_logits", [*data, "k=4", "sequence_length=32", f"out={tmp_path}/store"]),
        run,
    )
    taught = [
        tiny_run(*padded, "distillation=forward_kl", f"experiment_name=by{number}",
                 f"distillation.teacher={teacher}")
        for number, teacher in enumerate((run, store.folder))
    ]  # fmt: skip
    assert {s["data"]["dir"] for s in (further, *taught)} == {folder}
    own = ["sequence_length=32", "validation_tokens=512", "latency=false", "compression=magnitude",
           "compression.calibration_tokens=1024"]  # fmt: skip
    compress_folder(compose("compress", own), run, tmp_path / "small")
    assert load_model(tmp_path / "small").config.vocab_size == 576


def test_a_tokenizer_larger_than_the_table_is_refused(trained, tiny_overrides, tmp_path):
    run = [*tiny_overrides, f"prepared_dir={tmp_path}/prepared", "model.vocab_size=500",
           f"data.tokenizer={trained}/model/tokenizer.model"]  # fmt: skip
    with pytest.raises(ValueError, match=r"has 512 tokens, more than the model's vocab_size=500; "
                       r"use model.vocab_size=512 or more"):  # fmt: skip
        train(compose("train", run))
    assert not (tmp_path / "prepared").exists()
