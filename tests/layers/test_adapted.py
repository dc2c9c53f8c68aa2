"""Adapted layers against the formulas of the papers, over every kind of frozen layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mobilellm.layers import materialize, parse_layer_shape
from mobilellm.layers.adapted import AdaptedEmbedding, AdaptedLinear, AdaptedShape, merged
from mobilellm.layers.adapter_settings import AdapterSettings
from mobilellm.layers.factorized import FactorizedShape
from mobilellm.layers.masked import MaskedShape
from mobilellm.layers.number_format import NumberFormat
from mobilellm.layers.part_shape import low_rank_shape
from mobilellm.layers.quantized import QuantizedEmbedding, QuantizedLinear
from mobilellm.layers.token_embedding import TokenEmbedding

OUT, IN = 12, 16
NF4 = NumberFormat(bits=4, group=8, levels="normal")


def frozen(kind):
    torch.manual_seed(3)
    if kind == "dense":
        return nn.Linear(IN, OUT, bias=False)
    if kind == "quantized":
        return QuantizedLinear.nearest(torch.randn(OUT, IN), NF4)
    shape = MaskedShape(nonzero=100) if kind == "masked" else None
    shape = shape or FactorizedShape(parts=(low_rank_shape(OUT, IN, 3),))
    layer = shape.empty((OUT, IN))
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    if kind == "masked":
        layer.mask.view(-1)[100:] = False
        layer.weight.data.mul_(layer.mask)
    return layer


def adapted(kind="dense", **settings):
    layer = AdaptedLinear(
        frozen(kind), AdapterSettings(**({"rank": 3, "alpha": 6} | settings)), (OUT, IN)
    )
    layer.reset_adapter_()
    return layer


@pytest.mark.parametrize("kind", ["dense", "quantized", "masked", "factorised"])
@pytest.mark.parametrize("dora", [False, True])
def test_a_layer_is_what_the_papers_say(kind, dora):
    layer, x = adapted(kind, dora=dora), torch.randn(5, IN, requires_grad=True)
    weight = materialize(layer.base).detach()
    torch.testing.assert_close(layer(x), F.linear(x, weight))
    nn.init.normal_(layer.lora_b)
    if dora:
        nn.init.uniform_(layer.magnitude, 0.5, 1)
    changed = weight + 6 / 3 * layer.lora_b @ layer.lora_a
    if dora:
        changed = layer.magnitude[:, None] * changed / changed.norm(dim=1, keepdim=True).detach()
    probe = torch.randn(5, OUT)
    wanted = torch.autograd.grad(F.linear(x, changed), [x, layer.lora_a, layer.lora_b], probe)
    y = layer(x)
    torch.testing.assert_close(y, F.linear(x, changed))
    found = torch.autograd.grad(y, [x, layer.lora_a, layer.lora_b], probe)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(merged(layer)(x), y)
    assert not any(p.requires_grad for p in layer.base.parameters())


@pytest.mark.parametrize("kind", ["dense", "quantized", "masked", "factorised"])
def test_a_shape_counts_and_stores_what_the_layer_has(kind):
    layer = adapted(kind, dora=True)
    shape, size = layer.shape, (OUT, IN)
    assert parse_layer_shape(shape.to_dict()) == shape
    cost = shape.cost(size)
    assert cost.trained == sum(p.numel() for p in layer.parameters() if p.requires_grad)
    assert cost.parameters - cost.packed == sum(p.numel() for p in layer.parameters())
    state = layer.state_dict()
    packed = shape.pack(state)
    assert 8 * sum(t.nbytes for t in packed.values()) == shape.file_bits(size, 32)
    back = shape.unpack(packed, size)
    assert back.keys() == state.keys() and all(torch.equal(back[k], state[k]) for k in state)
    assert "with DoRA of rank 3" in AdaptedShape.describe_tensors(state)
    built = shape.empty(size)
    assert {k: t.shape for k, t in built.state_dict().items()} == {
        k: t.shape for k, t in state.items()
    }


@pytest.mark.parametrize("is_quantized", [False, True])
def test_a_table_is_changed_at_both_ends(is_quantized):
    table = TokenEmbedding(20, IN)
    nn.init.normal_(table.weight)
    if is_quantized:
        table = QuantizedEmbedding.nearest(table.weight, NF4)
    layer = AdaptedEmbedding(table, AdapterSettings(rank=4, alpha=8), (20, IN))
    layer.reset_adapter_()
    nn.init.normal_(layer.lora_b)
    weight, ids, hidden = layer.materialize(), torch.tensor([[3, 7]]), torch.randn(2, IN)
    torch.testing.assert_close(layer(ids), weight[ids])
    torch.testing.assert_close(layer.unembed(hidden), hidden @ weight.T)
    torch.testing.assert_close(merged(layer)(ids), weight[ids])


def test_dropout_and_the_scale_of_rslora():
    layer, x = adapted(dropout=0.5, rslora=True), torch.ones(400, IN)
    nn.init.ones_(layer.lora_b)
    assert layer.settings.scale == pytest.approx(6 / 3**0.5)
    kept = layer.eval()(x)
    torch.testing.assert_close(kept, layer(x))
    drawn = layer.train()(x)
    assert not torch.equal(drawn, kept)
    # Inputs are scaled so that the mean stays.
    torch.testing.assert_close(drawn.mean(0), kept.mean(0), rtol=0.3, atol=0.3)


def test_what_is_not_possible():
    with pytest.raises(ValueError, match=r"rank=0 must be"):
        AdapterSettings(rank=0, alpha=1)
    with pytest.raises(ValueError, match="dropout=1"):
        AdapterSettings(rank=1, alpha=1, dropout=1)
    shape = AdaptedShape(adapted=AdapterSettings(rank=13, alpha=1))
    with pytest.raises(ValueError, match=r"rank=13, but the weight is 12x16; use .* at most 12"):
        shape.check((OUT, IN))
    with pytest.raises(ValueError, match="has an adapter already"):
        AdaptedShape(adapted=AdapterSettings(rank=1, alpha=1), base=shape)
    with pytest.raises(ValueError, match="cannot have dora=true"):
        AdapterSettings(rank=1, alpha=1, dora=True) and AdaptedShape(
            adapted=AdapterSettings(rank=1, alpha=1, dora=True)
        ).empty_embedding((20, IN))
