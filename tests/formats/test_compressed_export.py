import json

import pytest
import torch

from mobilellm.checkpoint import load_model, save_model
from mobilellm.formats.huggingface import export_huggingface, import_huggingface
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.training.atomic_save import check_same_model

UP, QUERY = "blocks.0.feed_forward.up_proj", "blocks.1.attention.q_proj"
LOW_RANK = {"left": (40, 1), "right": (1, 24), "num_terms": 3}
KRONECKER = {"left": (20, 12), "right": (2, 2)}
TABLE = {"parts": [{"left": (61, 12), "right": (1, 2)}]}
TURNED = {"parts": [LOW_RANK, KRONECKER], "row_permutation": True, "column_permutation": True}
KINDS = {
    "factorised": {UP: TURNED, QUERY: {"parts": [{"left": (24, 12), "right": (1, 2)}]}},
    "tied table": {"embedding": TABLE, UP: {"parts": [KRONECKER]}},
    "pivoted": {
        "embedding": {
            "parts": [{"left": (61, 1), "right": (1, 24), "num_terms": 9, "pivoted": True}]
        },
        UP: {"parts": [LOW_RANK | {"pivoted": True}, KRONECKER], "row_permutation": True},
    },
    "masked": {"embedding": {"nonzero": 900}, UP: {"nonzero": 100}},
    "untied head": {"head": TABLE},
}


def make_config(layers=(), **changes):
    return ModelConfig(
        vocab_size=61, hidden_size=24, intermediate_size=40, num_blocks=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=48, block_repeats=2,
        compressed_layers=layers, **changes,
    )  # fmt: skip


def make_model(layers=(), **changes):
    torch.manual_seed(0)
    model = MobileLLM(make_config(layers, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.dim() == 1))
        for name, buffer in model.named_buffers():
            if name.endswith("_order"):
                buffer.copy_(torch.randperm(len(buffer)))
            else:
                kept = model.config.layer_shape(name.removesuffix(".mask")).nonzero
                buffer.copy_((torch.randperm(buffer.numel()) < kept).view_as(buffer))
    return model


def make_ids():
    return torch.randint(0, 61, (2, 13), generator=torch.Generator().manual_seed(1))


def largest_difference(first, second):
    with torch.no_grad():
        return (first(make_ids()).logits - second(make_ids()).logits).abs().max().item()


@pytest.mark.parametrize("kind", KINDS)
def test_a_compressed_model_goes_out_dense_with_equal_logits(kind, tmp_path):
    model = make_model(KINDS[kind], tie_word_embeddings=kind != "untied head")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_huggingface(model, tmp_path / "hf")
    ours = import_huggingface(tmp_path / "hf")
    assert ours.config.compressed_layers == ()
    assert (ours.head is None) == model.config.tie_word_embeddings
    assert largest_difference(model, ours) < 1e-5
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert largest_difference(model, theirs) < 1e-5


def test_masked_weights_go_out_as_zeros(tmp_path):
    export_huggingface(make_model(KINDS["masked"]), tmp_path / "hf")
    ours = import_huggingface(tmp_path / "hf")
    assert ours.embedding.weight.count_nonzero() == 900
    assert ours.blocks[0].feed_forward.up_proj.weight.count_nonzero() == 100


def test_half_precision_goes_out_as_it_is(tmp_path):
    export_huggingface(make_model(KINDS["tied table"]).to(torch.bfloat16), tmp_path / "hf")
    assert (
        json.loads((tmp_path / "hf" / "config.json").read_text(encoding="utf-8"))["dtype"]
        == "bfloat16"
    )
    assert import_huggingface(tmp_path / "hf", dtype=None).norm.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("saved", "asked", "message"),
    [
        ({UP: TURNED}, {}, rf"{UP} is factorised in 2 parts .*, row_order, column_order in .*, but "
         r"dense according to config.json \(without compressed_layers\); use the config.json that"),
        ({}, {UP: TURNED}, rf"{UP} is dense in .*, but factorised in 2 .*compressed_layers give"),
        ({UP: {"nonzero": 5}}, {}, rf"{UP} is masked in .*, but dense according to"),
        ({"embedding": TABLE}, {}, "embedding is factorised in 1 part .*, but dense according to"),
        ({UP: {"parts": [LOW_RANK]}}, {UP: {"parts": [KRONECKER]}},
         r"1 part .*: \(3, 40, 1\) and \(3, 1, 24\)\) in .*, but factorised in 1 part .*: \(1"),
        ({UP: TURNED}, {UP: {"parts": [LOW_RANK, KRONECKER]}}, "row_order, column_order in "),
    ],
)  # fmt: skip
def test_weights_under_another_configuration_are_refused_with_the_remedy(
    saved, asked, message, tmp_path
):
    save_model(make_model(saved), tmp_path)
    config = make_config(asked).to_dict()
    (tmp_path / "config.json").write_text(
        json.dumps({"format": "mobilellm/1", **config}), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path)


def test_a_folder_from_before_compressed_layers_loads(tmp_path):
    model = make_model()
    save_model(model, tmp_path)
    assert "compressed_layers" not in (tmp_path / "config.json").read_text(encoding="utf-8")
    assert largest_difference(load_model(tmp_path), model) == 0


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({UP: TURNED}, {}, f"differ in 1 matrix, e.g. {UP}: 3 x (40x1)⊗(1x24) + 1 x (20x12)⊗(2x2), "
         "now dense; resume with"),
        ({}, {UP: {"nonzero": 7}, QUERY: {"nonzero": 9}}, f"differ in 2 matrices, e.g. {UP}: "
         "dense, now 7 kept; resume with"),
    ],
)  # fmt: skip
def test_resuming_another_compression_is_refused_in_a_line(before, now, said):
    saved, current = (make_config(layers).to_dict() for layers in (before, now))
    with pytest.raises(ValueError, match="the checkpoint holds another model") as caught:
        check_same_model(saved, current)
    assert f"the checkpoint holds another model: compressed_layers {said}" in str(caught.value)
    check_same_model(saved, saved)


def test_the_tokens_that_text_begins_and_ends_with_are_no_other_model():
    """Runs from before they followed the data go on."""
    saved = make_config(eos_token_id=2, bos_token_id=1).to_dict()
    check_same_model(saved, make_config(eos_token_id=1, bos_token_id=1).to_dict())
