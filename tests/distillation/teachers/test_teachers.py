"""Teachers of every kind say what their model says, and are refused where they do not fit."""

import pytest
import torch
from torch.testing import assert_close

from mobilellm.checkpoint import save_model
from mobilellm.distillation.losses.loss import Structure
from mobilellm.distillation.losses.targets import TopK
from mobilellm.distillation.teachers.opening import check_fits, describe_teacher, open_teacher
from mobilellm.distillation.teachers.teacher import structure_of
from mobilellm.models import MobileLLM, ModelConfig

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_blocks": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip


def make_model(**changes):
    torch.manual_seed(0)
    return MobileLLM(ModelConfig(**(SIZES | changes)))


def make_batch(batch=2, length=9):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(50, (batch, length), generator=generator)
    return {"input_ids": ids, "labels": ids, "window": torch.arange(batch)}


@pytest.fixture
def folder(tmp_path):
    save_model(make_model(block_repeats=2, layer_sharing="reverse"), tmp_path / "teacher")
    return tmp_path / "teacher"


def test_a_saved_model_teaches_what_it_predicts(folder):
    teacher, batch = open_teacher(folder), make_batch()
    model = make_model(block_repeats=2, layer_sharing="reverse")
    output = teacher.run(batch, ("hidden_states", "attention", "embedding"))
    expected = model(batch["input_ids"], capture=("hidden_states", "attention", "embedding"))
    logits = expected.logits.flatten(0, 1)
    assert_close(output.target(slice(0, 18), 1.0), logits)
    assert_close(output.target(slice(5, 7), 2.0), logits[5:7])
    for name, states in expected.captured.items():
        assert_close(output.captured[name], states)
    assert len(output.captured["hidden_states"]) == teacher.structure.num_layers == 6


def test_it_is_frozen_and_keeps_no_graph(folder):
    teacher = open_teacher(folder)
    output = teacher.run(make_batch(), ("hidden_states",))
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert not teacher.model.training
    assert not output.target(slice(0, 3), 1.0).requires_grad
    assert not any(states.requires_grad for states in output.captured["hidden_states"])


def test_documents_stay_apart(folder):
    teacher, batch = open_teacher(folder), make_batch(1, 8)
    batch["document_ids"] = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]])
    alone = {"input_ids": batch["input_ids"][:, 5:]}
    expected = teacher.run(alone).target(slice(0, 3), 1.0)
    assert_close(teacher.run(batch).target(slice(5, 8), 1.0), expected)


@pytest.mark.parametrize("rounding", [None, "fixed16", "fixed8"])
def test_the_k_most_likely_words(folder, rounding):
    teacher = open_teacher(folder, top_k=4, rounding=rounding)
    batch = make_batch()
    seen = teacher.run(batch).target(slice(0, 18), 2.0)
    logits = open_teacher(folder).run(batch).target(slice(0, 18), 1.0)
    expected = (logits / 2).log_softmax(-1).topk(4)
    assert isinstance(seen, TopK)
    assert seen.temperature == 2.0
    assert torch.equal(seen.indices, expected.indices)
    largest = {None: 1e-6, "fixed16": 1e-3, "fixed8": 0.1}[rounding]
    difference = (seen.log_probabilities - expected.values).abs().max()
    assert difference < largest
    assert (difference > 1e-6) == (rounding is not None)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_precision_is_the_teachers_own(folder, precision):
    teacher = open_teacher(folder, precision=precision)
    batch = make_batch()
    expected = open_teacher(folder).run(batch).target(slice(0, 18), 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = teacher.run(batch).target(slice(0, 18), 1.0)
    assert found.dtype == getattr(torch, precision)
    assert_close(found.float(), expected, atol=0.05, rtol=0.05)
    assert torch.equal(found.float(), expected) == (precision == "float32")


def test_a_llama_of_hugging_face(tmp_path):
    from mobilellm.formats.huggingface import export_huggingface

    model = make_model()
    export_huggingface(model, tmp_path / "llama")
    batch = make_batch()
    found = open_teacher(tmp_path / "llama").run(batch).target(slice(0, 18), 1.0)
    assert_close(found, model(batch["input_ids"]).logits.flatten(0, 1))


def test_any_causal_model_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=3, n_head=4, n_positions=32,
        attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path / "gpt2")
    facts = describe_teacher(tmp_path / "gpt2")
    assert facts.kind == "transformers"
    assert (facts.structure.num_layers, facts.structure.num_heads) == (3, (4, 4, 4))
    assert facts.max_tokens == 32
    teacher, batch = open_teacher(tmp_path / "gpt2"), make_batch()
    output = teacher.run(batch, ("hidden_states", "attention", "embedding"))
    wanted = model(
        batch["input_ids"], output_hidden_states=True, output_attentions=True, use_cache=False
    )
    assert_close(output.target(slice(0, 18), 1.0), wanted.logits.flatten(0, 1))
    assert_close(output.captured["hidden_states"], list(wanted.hidden_states[1:]))
    assert_close(output.captured["embedding"], [wanted.hidden_states[0]])
    assert len(output.captured["attention"]) == 3
    batch["document_ids"] = torch.tensor([[0] * 5 + [1] * 4] * 2)
    first = {"input_ids": batch["input_ids"][:, :5]}
    whole = teacher.run(batch).target(slice(0, 5), 1.0)
    assert_close(whole, teacher.run(first).target(slice(0, 5), 1.0))


@pytest.fixture
def gpt2(tmp_path):
    """A folder that transformers alone can open."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=4, n_positions=32, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("transformer.h.1.mlp.c_fc.weight"),
         r"1 weights of the teacher in .*gpt2 are missing, e.g. transformer.h.1.mlp.c_fc.weight;"),
        (lambda state: state.update({"transformer.more.weight": torch.zeros(2)}),
         "1 weights of the teacher in .*gpt2 are unexpected, e.g. transformer.more.weight;"),
        (lambda state: state.update({"transformer.ln_f.weight": torch.zeros(3)}),
         r"transformers cannot open the teacher in .*gpt2 \(RuntimeError"),
    ],
)  # fmt: skip
def test_a_teacher_of_transformers_has_all_its_weights_from_the_folder(gpt2, change, message):
    from safetensors.torch import load_file, save_file

    path = gpt2 / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, {"format": "pt"})
    with pytest.raises(ValueError, match=message) as caught:
        open_teacher(gpt2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_damaged_weights_of_a_teacher_are_refused_in_one_line(gpt2, content):
    (gpt2 / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"transformers cannot open the teacher in .*gpt2"):
        open_teacher(gpt2)


def test_a_teachers_config_is_read_as_any_other(folder, tmp_path):
    import json

    from mobilellm.formats.huggingface import export_huggingface

    export_huggingface(make_model(), tmp_path / "llama")
    path = tmp_path / "llama/config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert describe_teacher(tmp_path / "llama").kind == "model"
    path.write_text(json.dumps(values | {"rms_norm_eps": None}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"llama/config.json: rms_norm_eps=None must be a pos"):
        describe_teacher(tmp_path / "llama")


def test_a_teacher_in_16_bits_is_run_in_float32_unless_asked(tmp_path):
    save_model(make_model().bfloat16(), tmp_path / "half")
    teacher = open_teacher(tmp_path / "half")
    assert {p.dtype for p in teacher.model.parameters()} == {torch.float32}
    half = open_teacher(tmp_path / "half", precision="bfloat16")
    assert {p.dtype for p in half.model.parameters()} == {torch.bfloat16}


def test_soft_capped_logits_are_refused(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.Gemma2Config(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=4, final_logit_softcapping=0.05,
    )  # fmt: skip
    transformers.Gemma2ForCausalLM(config).save_pretrained(tmp_path / "gemma")
    with pytest.raises(ValueError, match="soft-capping"):
        open_teacher(tmp_path / "gemma")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 51}, "top_k=51 must be at most vocab_size=50"),
        ({"top_k": 0}, "top_k=0 must be a whole number"),
        ({"rounding": "fixed16"}, "set top_k too"),
        ({"precision": "int8"}, "teacher_precision='int8' is not known; use one of auto"),
    ],
)
def test_options_out_of_range(folder, options, message):
    with pytest.raises(ValueError, match=message):
        open_teacher(folder, **options)


def test_what_is_no_teacher(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; give the folder of a model"):
        describe_teacher(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="neither a model nor a logit store"):
        describe_teacher(tmp_path / "empty")
    (tmp_path / "empty/config.json").write_text('{"model_type": "no-such-model"}', encoding="utf-8")
    with pytest.raises(ValueError, match="no-such-model"):
        describe_teacher(tmp_path / "empty")


def test_a_student_that_does_not_fit(folder):
    facts = describe_teacher(folder)
    student = structure_of(ModelConfig(**(SIZES | {"vocab_size": 60})))
    with pytest.raises(
        ValueError, match="the teacher has vocab_size=50, the student vocab_size=60"
    ):
        check_fits(facts, student, 16)
    with pytest.raises(ValueError, match="sequence_length=64 is longer than"):
        check_fits(facts, facts.structure, 64)


def test_structure_counts_applications():
    config = ModelConfig(**(SIZES | {"block_repeats": 2, "num_attention_heads": (2, 4, 8),
                                     "num_key_value_heads": 2, "head_dim": 4}))  # fmt: skip
    assert structure_of(config) == Structure(
        num_layers=6, hidden_size=16, num_heads=(2, 2, 4, 4, 8, 8), vocab_size=50
    )
