"""A kind of layer is one file and one entry in a table: here a block-diagonal one, made up."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from mobilellm import layers
from mobilellm.accounting import count_parameters, decode_bytes_per_token, flops_per_token
from mobilellm.accounting.explain import explain_model
from mobilellm.accounting.training_memory import training_memory_bytes
from mobilellm.checkpoint import load_model, save_model, stored_bytes
from mobilellm.compression.apply import dense_weight, with_layers
from mobilellm.compression.measurement import label_of_original
from mobilellm.compression.plan import LayerPlan, LayerwisePlan
from mobilellm.compression.twin import twin_config
from mobilellm.formats.huggingface import export_huggingface, import_huggingface
from mobilellm.layers import LayerCost, LayerShape, parse_layer_shape
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.generation import generate

UP, TABLE = "blocks.0.feed_forward.up_proj", "embedding"


@dataclass(frozen=True, kw_only=True)
class BlockDiagonalShape(LayerShape):
    num_diagonal: int
    kind = "block-diagonal"

    def check(self, size):
        if any(n % self.num_diagonal for n in size):
            raise ValueError(f"has num_diagonal={self.num_diagonal}, which must divide {size}")

    def cost(self, size):
        count = size[0] * size[1] // self.num_diagonal
        return LayerCost(
            parameters=count, matrix_parameters=0, flops=2 * count,
            row_parameters=size[1] // self.num_diagonal,
        )  # fmt: skip

    def empty(self, size, *, bias=False):
        return BlockDiagonal(self.num_diagonal, size)

    def empty_embedding(self, size):
        return BlockDiagonalEmbedding(self.num_diagonal, size)

    def to_dict(self):
        return {"num_diagonal": self.num_diagonal}

    @classmethod
    def describe_tensors(cls, tensors):
        return f"{len(tensors['diagonal'])} diagonal blocks" if "diagonal" in tensors else None

    def __str__(self):
        return f"{self.num_diagonal} diagonal blocks"


class BlockDiagonal(nn.Module):
    def __init__(self, blocks, size):
        super().__init__()
        self.diagonal = nn.Parameter(torch.empty(blocks, size[0] // blocks, size[1] // blocks))

    @property
    def shape(self):
        return BlockDiagonalShape(num_diagonal=len(self.diagonal))

    def materialize(self):
        return torch.block_diag(*self.diagonal)

    def forward(self, x):
        parts = x.unflatten(-1, (len(self.diagonal), -1)).unsqueeze(-2)
        return (parts @ self.diagonal.mT).squeeze(-2).flatten(-2)


class BlockDiagonalEmbedding(BlockDiagonal):
    def forward(self, input_ids):
        return self.materialize()[input_ids]

    def unembed(self, hidden):
        return super().forward(hidden)


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(layers.KINDS, "num_diagonal", (__name__, "BlockDiagonalShape"))
    return ModelConfig(
        vocab_size=48, hidden_size=16, intermediate_size=24, num_blocks=2, num_attention_heads=4,
        max_position_embeddings=64,
        compressed_layers={UP: {"num_diagonal": 4}, TABLE: {"num_diagonal": 2}},
    )  # fmt: skip


def test_it_is_read_checked_and_written(config):
    assert config.layer_shape(UP) == BlockDiagonalShape(num_diagonal=4)
    assert ModelConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match=r"compressed_layers\.embedding has num_diagonal=5, which"):
        ModelConfig.from_dict(
            config.to_dict() | {"compressed_layers": {TABLE: {"num_diagonal": 5}}}
        )
    with pytest.raises(
        ValueError,
        match="keys parts, nonzero, quantized, fake_quantized, adapted, num_diagonal",
    ):
        parse_layer_shape({"rank": 3})


def test_it_is_counted_and_explained(config):
    model = MobileLLM(config)
    dense = ModelConfig.from_dict(config.to_dict() | {"compressed_layers": {}})
    saved = 24 * 16 * 3 // 4 + 48 * 16 // 2
    counts = count_parameters(config)
    assert counts.stored == sum(p.numel() for p in model.parameters())
    assert counts.stored == count_parameters(dense).stored - saved
    assert flops_per_token(dense, 8).matmul - flops_per_token(config, 8).matmul == 2 * saved
    assert decode_bytes_per_token(config) < decode_bytes_per_token(dense)
    assert training_memory_bytes(config, 1, 8, optimizer="muon").total > 0
    rows = explain_model(config, 8)["compressed_layers"]
    assert [row["stored_as"] for row in rows] == ["2 diagonal blocks", "4 diagonal blocks"]
    assert label_of_original(config) == "given, block-diagonal"
    assert twin_config(config) is None


def test_it_runs_and_is_saved_loaded_and_exported(config, tmp_path):
    torch.manual_seed(0)
    model = MobileLLM(config).eval()
    ids = torch.tensor([[1, 5, 7]])
    save_model(model, tmp_path / "ours")
    loaded = load_model(tmp_path / "ours").eval()
    assert loaded.config == config
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert stored_bytes(model) == 4 * count_parameters(config).stored
    assert generate(loaded, ids, max_new_tokens=4).shape == (1, 7)
    folded = model
    for name in (UP, TABLE):
        weight = dense_weight(model, name)
        linear = nn.Linear(*weight.shape[::-1], bias=False)
        linear.weight = nn.Parameter(weight)
        folded = with_layers(folded, {name: linear})
    assert not folded.config.compressed_layers
    torch.testing.assert_close(folded(ids).logits, model(ids).logits)
    export_huggingface(model, tmp_path / "theirs")
    theirs = import_huggingface(tmp_path / "theirs").eval()
    torch.testing.assert_close(theirs(ids).logits, model(ids).logits)


def test_weights_stored_otherwise_than_the_configuration_says_are_refused(config, tmp_path):
    save_model(MobileLLM(config), tmp_path)
    text = (tmp_path / "config.json").read_text(encoding="utf-8")
    other = text.replace('"num_diagonal": 4', '"num_diagonal": 2')
    (tmp_path / "config.json").write_text(other, encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"up_proj is 4 diagonal blocks in .* 2 diagonal blocks acc"
    ):
        load_model(tmp_path)


def test_a_plan_holds_it(config):
    layer = LayerPlan(name=UP, size=(24, 16), shape=BlockDiagonalShape(num_diagonal=4))
    plan = LayerwisePlan(layers=(layer,))
    assert LayerwisePlan.from_dict(plan.to_dict()) == plan
    assert layer.parameters == layer.nonzero == 96
    assert plan.layer_report({UP: 0.5})[UP]["shape"] == "4 diagonal blocks"
    assert plan.table().row_count == 2
