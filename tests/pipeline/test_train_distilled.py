"""Runs with a teacher, in one process."""

import csv
import json
import math
import shutil

import pytest
import torch

from mobilellm.accounting import count_parameters
from mobilellm.checkpoint import load_model, save_model
from mobilellm.hydra_app.configuration import compose
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.pipeline.plan import plan_run
from mobilellm.pipeline.prepare_logits import prepare_logits
from mobilellm.pipeline.train import train

TEACHER = "distillation.teacher"
SIZES = {
    "vocab_size": 512, "hidden_size": 16, "intermediate_size": 24, "num_blocks": 3,
    "num_attention_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture
def teacher(tmp_path, corpus_tokenizer):
    """A model folder with the tokenizer of the data."""
    torch.manual_seed(0)
    save_model(MobileLLM(ModelConfig(**SIZES)), tmp_path / "teacher", corpus_tokenizer)
    return tmp_path / "teacher"


def rows_of(tmp_path):
    [file] = tmp_path.glob("outputs/default/*/metrics.csv")
    with file.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("choice", ["forward_kl", "reverse_kl", "jensen_shannon", "mobilellm",
                                    "hidden_states"])  # fmt: skip
def test_a_student_learns_beside_a_teacher(choice, tiny_run, teacher, tmp_path):
    summary = tiny_run(f"distillation={choice}", f"{TEACHER}={teacher}", "log_interval_steps=1")
    assert summary["status"] == "finished"
    assert summary["distillation"]["teacher"] == str(teacher)
    names = [name for name in rows_of(tmp_path)[-1] if name.startswith("train/loss/")]
    assert names
    steps = [row for row in rows_of(tmp_path) if row["train/loss"]]
    for name in names:
        assert all(math.isfinite(float(row[name])) for row in steps)
    [folder] = tmp_path.glob("outputs/default/*/model")
    assert load_model(folder).config.num_blocks == 2
    state = torch.load(folder.parent / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    own = {name for name in state if name.startswith("model.")}
    others = {name.split(".")[0] for name in state if name not in own}
    assert others == ({"auxiliary"} if choice == "hidden_states" else set())


def test_the_teacher_is_named_before_the_first_step(tiny_run, teacher, capsys):
    summary = "callbacks.run_summary={_target_: mobilellm.callbacks.RunSummaryCallback}"
    tiny_run("distillation=forward_kl", f"{TEACHER}={teacher}", summary)
    printed = "".join(capsys.readouterr().out.split())
    assert f"teacher{teacher}:forward_kl" in printed


def test_a_teacher_may_be_gone_when_the_run_ends(tiny_run, teacher):
    summary = tiny_run(
        "distillation=forward_kl", f"{TEACHER}={teacher}",
        "+callbacks.remove._target_=removed_teacher.RemoveAtEnd",
        f"+callbacks.remove.folder={teacher}",
    )  # fmt: skip
    assert summary["status"] == "finished"
    assert not teacher.exists()
    stored = count_parameters(ModelConfig(**SIZES)).stored
    assert summary["distillation"]["teacher_parameters"] == stored


def test_a_teacher_changes_what_is_learnt(tiny_run, teacher):
    plain = tiny_run("distillation=none", "experiment_name=a")
    taught = tiny_run("distillation=forward_kl", f"{TEACHER}={teacher}", "experiment_name=b")
    without = tiny_run(
        "distillation=forward_kl", f"{TEACHER}={teacher}", "experiment_name=c",
        "distillation.cross_entropy_weight=1.0",
        "distillation.losses.forward_kl.weight=0.0",
    )  # fmt: skip
    assert taught["val_loss"] != plain["val_loss"]
    assert without["val_loss"] == plain["val_loss"], "a loss of no weight changes nothing"


def test_weights_follow_their_ramp(tiny_run, teacher, tmp_path):
    """At the end of the ramp only labels count: the last steps' gradients are those of labels."""
    ramp = "{_target_: mobilellm.distillation.Ramp, start: 1.0, end: 0.0, until: 0.01}"
    summary = tiny_run(
        "distillation=forward_kl", f"{TEACHER}={teacher}",
        "distillation.cross_entropy_weight=1.0",
        f"distillation.losses.forward_kl.weight={ramp}",
    )  # fmt: skip
    assert summary["val_loss"] == tiny_run("experiment_name=plain")["val_loss"]


def test_the_dense_model_teaches_its_compressed_self(tiny_run, low_rank_stages, tmp_path):
    """From the second stage's start on; before the first there is nothing to recover."""
    summary = tiny_run(
        *low_rank_stages, "+compression.first_start=0.25", "log_interval_steps=1",
        "distillation=forward_kl", f"{TEACHER}=dense",
    )  # fmt: skip
    assert summary["status"] == "finished"
    [folder] = tmp_path.glob("outputs/default/*")
    dense = load_model(folder / "compression/dense")
    assert not dense.config.compressed_layers
    first = summary["compression"]["stages"][0]["step"]
    assert first == 3
    for row in rows_of(tmp_path):
        if row["train/loss"]:
            assert bool(row["train/loss/forward_kl"]) == (int(row["step"]) > first)


def test_intermediate_layers_of_the_dense_model(tiny_run, low_rank_stages, tmp_path):
    tiny_run(*low_rank_stages, "distillation=kngpt2", "log_interval_steps=1")
    last = rows_of(tmp_path)[-2]
    for name in ("embedding", "attention", "feed_forward"):
        assert float(last[f"train/loss/{name}"]) >= 0
    assert float(last["train/loss/feed_forward"]) > 0


def test_a_store_teaches_what_its_teacher_teaches(
    tiny_overrides, tiny_run, teacher, corpus, corpus_tokenizer, tmp_path
):
    """At the same k and rounding: equal losses and an equal model after all steps."""
    little = [f"data.train={corpus}/calendar.txt", f"data.tokenizer={corpus_tokenizer}"]
    shared = [
        o for o in tiny_overrides if o.startswith(("data", "prepared_dir", "sequence_length"))
    ] + little
    store = tmp_path / "store"
    config = compose("prepare_logits", [*shared, "k=8", "micro_batch_size=64", f"out={store}"])
    prepare_logits(config, teacher)
    online = tiny_run(
        "distillation=forward_kl", f"{TEACHER}={teacher}", "experiment_name=online",
        "distillation.top_k=8", "distillation.rounding=fixed16", *little,
    )  # fmt: skip
    stored = tiny_run(
        "distillation=forward_kl", f"{TEACHER}={store}", "experiment_name=stored", *little
    )
    assert stored["train_loss"] == pytest.approx(online["train_loss"], rel=1e-5)
    models = [
        load_model(next(tmp_path.glob(f"outputs/{name}/*/model"))).state_dict()
        for name in ("online", "stored")
    ]
    for name, weight in models[0].items():
        torch.testing.assert_close(weight, models[1][name], rtol=1e-5, atol=1e-5)
    taught = [*tiny_overrides, *little, "distillation=forward_kl", f"{TEACHER}={store}"]
    loss = "distillation.losses.forward_kl"
    ramp = "mobilellm.distillation.Ramp"
    hotter = f"{loss}.temperature={{_target_:{ramp},start:1.0,end:2.0}}"
    for overrides, message in (
        (["sequence_length=16"], "with windows of 32 tokens, not of 16; use sequence_length=32"),
        (
            ["data.document_mask=true"],
            "with data.document_mask=false; use the same value in training",
        ),
        ([f"{loss}.temperature=2.0"], "at temperature 1, .* all other tokens at 2 is not known;"),
        ([hotter], "at temperature 1, .* all other tokens at 2 is not known; use temperature=1 "),
    ):
        with pytest.raises(ValueError, match=message):
            plan_run(compose("train", [*taught, *overrides]))
    plan_run(compose("train", [*taught, hotter, f"{loss}.rest=renormalize"]))


STRUCTURED = ["compression=structured", "distillation=kngpt2", "model.num_key_value_heads=2"]
LOSSES = "distillation.losses"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["compression.keep_heads=0.5"],
         "losses.attention, with the compressed student: AttentionKL: layer 0 of the "
         "student has 1 heads, layer 0 of the teacher 2; use heads=mean"),
        (["compression.keep_heads=0.5", "compression.first_start=0.9"], "with the compressed"),
        (["compression.keep_blocks=0.5", f"{LOSSES}.feed_forward.layers._target_="
          "mobilellm.distillation.losses.layer_map.Explicit",
          f"+{LOSSES}.feed_forward.layers.layers=[[1,1]]"],
         "losses.feed_forward, with the compressed student: layers names layer "
         "1 of the student, which has 1 layers"),
    ],
)  # fmt: skip
def test_the_student_is_checked_as_compression_will_leave_it(overrides, message, tiny_overrides):
    with pytest.raises(ValueError, match=message):
        plan_run(compose("train", [*tiny_overrides, *STRUCTURED, *overrides]))


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["compression.keep_blocks=0.5"],
        ["compression.keep_heads=0.5", f"+{LOSSES}.attention.heads=mean"],
        ["compression=wanda"],
    ],
)
def test_what_a_compressed_student_can_learn_is_accepted(overrides, tiny_overrides):
    plan_run(compose("train", [*tiny_overrides, *STRUCTURED, *overrides]))


def test_the_student_is_checked_before_its_compression_too(
    tiny_overrides, corpus_tokenizer, tmp_path
):
    """Where a teacher in a folder teaches it from the start."""
    sizes = SIZES | {"hidden_size": 8, "num_attention_heads": 1, "num_blocks": 2}
    save_model(MobileLLM(ModelConfig(**sizes)), tmp_path / "pruned", corpus_tokenizer)
    given = [*tiny_overrides, *STRUCTURED, f"{TEACHER}={tmp_path}/pruned",
             "compression.keep_heads=0.5"]  # fmt: skip
    plan_run(compose("train", given))
    with pytest.raises(ValueError, match="layer 0 of the student has 2 heads, layer 0 of the tea"):
        plan_run(compose("train", [*given, "compression.first_start=0.5"]))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["distillation=forward_kl"], "teacher is not given; give the folder"),
        (["distillation=forward_kl", f"{TEACHER}=dense"], "this run has no compression"),
        ([f"++{TEACHER}=dense"], "distillation has settings .teacher. but no"),
        (["distillation=forward_kl", f"{TEACHER}=nowhere"], "teacher=nowhere does not exist"),
        (["distillation=forward_kl", f"{TEACHER}=TEACHER", "model.vocab_size=600"],
         "the teacher has vocab_size=512, the student vocab_size=600"),
        (["distillation=distilbert", f"{TEACHER}=TEACHER"], "hidden_size=8, the teacher 16"),
        (["distillation=forward_kl", f"{TEACHER}=TEACHER", "sequence_length=128"],
         "longer than the teacher's context of 64 tokens"),
        (["distillation=forward_kl", f"{TEACHER}=TEACHER", "distillation.top_k=513"],
         "top_k=513 must be at most vocab_size"),
        (["distillation=hidden_states", f"{TEACHER}=TEACHER",
          "distillation.losses.hidden_states.layers._target_="
          "mobilellm.distillation.losses.layer_map.Explicit",
          "+distillation.losses.hidden_states.layers.layers=[[0,3]]"],
         "layers names layer 3 of the teacher, which has 3 layers"),
        (["init_layers=[0]"], "init_layers selects layers of the model in init_from"),
        (["init_from=TEACHER", "init_layers=[0,7]"], "init_layers contains 7, but the model has"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_work_starts(
    overrides, message, tiny_overrides, teacher, tmp_path
):
    given = [o.replace("TEACHER", str(teacher)) for o in overrides]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(compose("train", [*tiny_overrides, *given]))
    assert not (tmp_path / "outputs").exists()


def test_another_tokenizer_is_refused(tiny_run, teacher, corpus_tokenizer, corpus, tmp_path):
    from mobilellm.data.tokenizers.sentencepiece_training import train_sentencepiece

    text = b"The quick brown fox jumps over the lazy dog. " * 400
    (teacher / "tokenizer.model").write_bytes(
        train_sentencepiece(
            [text + bytes(range(97, 123)) * 200, (corpus / "ast.txt").read_bytes()], 512
        )
    )
    with pytest.raises(ValueError, match=r"differs from the tokenizer of distillation.teacher"):
        tiny_run(
            "distillation=forward_kl", f"{TEACHER}={teacher}", f"data.tokenizer={corpus_tokenizer}"
        )
    shutil.rmtree(teacher)


def test_a_student_begins_with_its_teachers_layers(tiny_run, teacher, tmp_path):
    tiny_run(f"init_from={teacher}", "init_layers=[0,2]", "sequence_length=32",
             "distillation=distilbert", f"{TEACHER}={teacher}", "optimizer.learning_rate=1e-9",
             "optimizer.weight_decay=0")  # fmt: skip
    [folder] = tmp_path.glob("outputs/default/*")
    student, whole = load_model(folder / "model"), load_model(teacher)
    assert student.config.num_blocks == 2
    expected = whole.blocks[2].state_dict()
    for name, weight in student.blocks[1].state_dict().items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)
    config = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["model"]
    assert config["num_blocks"] == 2
