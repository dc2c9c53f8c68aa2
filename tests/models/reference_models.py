"""Models to test with, and independent definitions to compare them with."""

import torch
import torch.nn.functional as F

from mobilellm.models import MobileLLM, ModelConfig

SCHEMES = ("immediate", "repeat_all", "reverse")
UNEVEN = ("sandwich", "last_first")
"""Of tests/conftest.py: the order is of any length."""
SHARED = (*SCHEMES, *UNEVEN)


def make_config(**changes) -> ModelConfig:
    sizes = dict(
        vocab_size=61, hidden_size=24, intermediate_size=40, num_blocks=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    return ModelConfig(**(sizes | changes))


def make_model(**changes) -> MobileLLM:
    """A model with weights large enough for every part to matter."""
    torch.manual_seed(0)
    model = MobileLLM(make_config(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.dim() == 1))
    return model


def make_ids(batch=2, length=13):
    return torch.randint(0, 61, (batch, length), generator=torch.Generator().manual_seed(1))


def copy_to_transformers(model):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = model.config
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size, hidden_size=config.hidden_size, head_dim=config.head_dim,
            intermediate_size=config.intermediate_size, num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps, tie_word_embeddings=config.tie_word_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        )
    )  # fmt: skip
    with torch.no_grad():
        theirs.model.embed_tokens.weight.copy_(model.embedding.weight)
        theirs.model.norm.weight.copy_(model.norm.weight)
        if model.head is not None:
            theirs.lm_head.weight.copy_(model.head.weight)
        for layer, index in zip(theirs.model.layers, config.layer_order, strict=True):
            block = model.blocks[index]
            layer.input_layernorm.weight.copy_(block.attention_norm.weight)
            layer.post_attention_layernorm.weight.copy_(block.feed_forward_norm.weight)
            for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
                getattr(layer.self_attn, name).weight.copy_(getattr(block.attention, name).weight)
            for name in ("gate_proj", "up_proj", "down_proj"):
                getattr(layer.mlp, name).weight.copy_(getattr(block.feed_forward, name).weight)
    return theirs


def naive_forward(model, ids):
    """The definition, one row and one head at a time, with `share_kv` as its own rule."""
    config = model.config
    half = config.head_dim // 2
    angles = torch.arange(ids.shape[1])[:, None] * config.rope_theta ** (-torch.arange(half) / half)

    def normed(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weight

    def turned(x):
        pairs = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones(()), angles)
        return torch.cat((pairs.real, pairs.imag), -1)

    def heads(x, norm=None):
        parts = x.split(config.head_dim, -1)
        return [normed(part, norm.weight) for part in parts] if norm else parts

    rows = []
    for row in ids:
        x, first = model.embedding.weight[row], {}
        for index in config.layer_order:
            block = model.blocks[index]
            a = normed(x, block.attention_norm.weight)
            layer = block.attention
            norm = (lambda n: n) if config.qk_norm == "rms" else (lambda n: None)
            own = (
                [turned(k) for k in heads(a @ layer.k_proj.weight.T, norm(layer.k_norm))],
                heads(a @ layer.v_proj.weight.T),
            )
            keys, values = first.setdefault(index, own) if config.share_kv == "first" else own
            mixed = []
            for head, q in enumerate(heads(a @ layer.q_proj.weight.T, norm(layer.q_norm))):
                group = head * len(keys) // (layer.q_proj.out_features // config.head_dim)
                scores = turned(q) @ keys[group].T / config.head_dim**0.5
                future = torch.ones_like(scores).triu(1).bool()
                mixed.append(scores.masked_fill(future, -torch.inf).softmax(-1) @ values[group])
            x = x + torch.cat(mixed, -1) @ layer.o_proj.weight.T
            b, feed = normed(x, block.feed_forward_norm.weight), block.feed_forward
            if config.feed_forward == "relu":
                inner = (b @ feed.up_proj.weight.T).clamp(min=0)
            else:
                inner = F.silu(b @ feed.gate_proj.weight.T) * (b @ feed.up_proj.weight.T)
            x = x + inner @ feed.down_proj.weight.T
        table = model.embedding.weight if model.head is None else model.head.weight
        rows.append(normed(x, model.norm.weight) @ table.T)
    return torch.stack(rows)


def gradients(model, loss):
    return dict(
        zip(
            dict(model.named_parameters()),
            torch.autograd.grad(loss, list(model.parameters())),
            strict=True,
        )
    )


def assert_close(given, wanted, tolerance=1e-5):
    torch.testing.assert_close(given, wanted, atol=tolerance, rtol=tolerance)
