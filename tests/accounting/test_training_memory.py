import contextlib

import pytest
import torch

from mobilellm.accounting import (
    activation_bytes,
    checkpoint_bytes,
    count_parameters,
    largest_micro_batch,
    optimizer_bytes,
    training_memory_bytes,
)
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.optim import adamw, muon

SHAPE = {
    "vocab_size": 100,
    "hidden_size": 96,
    "intermediate_size": 288,
    "num_blocks": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def kept_bytes(config, batch, length, precision, checkpointing=False, document_mask=False):
    """What autograd keeps for the backward pass, each storage once, weights left out."""
    model = MobileLLM(config).train()
    model.set_activation_checkpointing(checkpointing)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    mixed = contextlib.nullcontext()
    if precision == "bf16-mixed":
        mixed = torch.autocast("cpu", torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), mixed:
        ids = torch.randint(config.vocab_size, (batch, length))
        mask = torch.ones(batch, length, length, dtype=torch.bool) if document_mask else None
        model(ids, logits=False, attention_mask=mask)
    return sum(size for size, _ in kept.values())


def per_token_and_block(measure, config):
    """Slope of `measure(config, tokens)` in blocks and tokens: free of what is there but once."""
    deeper = ModelConfig.from_dict(config.to_dict() | {"num_blocks": config.num_blocks + 1})
    by_depth = [measure(c, 128) - measure(c, 64) for c in (config, deeper)]
    return (by_depth[1] - by_depth[0]) / 64


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"feed_forward": "relu"},
        {"qk_norm": "l2"},
        {"qk_norm": "rms", "num_key_value_heads": 6},
        {"block_repeats": 2},
        {"block_repeats": 2, "share_kv": "first", "layer_sharing": "repeat_all"},
        {"block_repeats": 3, "num_blocks": 3, "layer_sharing": "sandwich"},
        {"block_repeats": 3, "num_blocks": 3, "layer_sharing": "sandwich", "share_kv": "first"},
    ],
)
@pytest.mark.usefixtures("uneven_schemes")
def test_activations_are_what_autograd_keeps(variant, precision):
    config = ModelConfig(**SHAPE | variant)
    kept = per_token_and_block(lambda c, n: kept_bytes(c, 1, n, precision), config)
    forecast = per_token_and_block(
        lambda c, n: activation_bytes(c, 1, n, precision=precision), config
    )
    assert forecast == pytest.approx(kept, rel=0.07)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("variant", [{}, {"num_key_value_heads": 6}, {"block_repeats": 2}])
def test_every_application_keeps_a_document_mask_of_its_own(variant, precision):
    config = ModelConfig(**SHAPE | variant)

    def measured(length):
        sizes = [kept_bytes(config, 3, length, precision, document_mask=on) for on in (True, False)]
        return sizes[0] - sizes[1]

    def forecast(length):
        options = {"precision": precision}
        sizes = [
            activation_bytes(config, 3, length, document_mask=on, **options) for on in (True, False)
        ]
        return sizes[0] - sizes[1]

    width = 4 if precision == "32-true" else 2
    for length in (64, 128):
        assert measured(length) == config.num_layers * width * 3 * length**2
        # And one of the block that the backward pass is in, and the mask itself, a byte a pair.
        assert forecast(length) == measured(length) + (width + 1) * 3 * length**2


def test_masked_attention_without_a_kernel_repeats_keys_and_values():
    """Derived from `Attention._attend`; no GPU was measured."""
    options = {"document_mask": True, "accelerator": "mps"}
    grouped, whole = (
        ModelConfig(**SHAPE | {"num_key_value_heads": heads}, block_repeats=2) for heads in (2, 6)
    )
    assert activation_bytes(grouped, 2, 64, **options) == activation_bytes(whole, 2, 64, **options)
    on_cpu = activation_bytes(grouped, 2, 64, document_mask=True)
    more = activation_bytes(grouped, 2, 64, **options) - on_cpu
    # Four applications and the working space of one: keys and values of four more heads.
    assert more == (4 + 1) * 2 * 64 * 4 * 2 * 4 * 16


def test_flexible_attention_keeps_no_mask():
    """Except where its kernels do not fit: they need heads of at least 16."""
    for size, keeps in ((16, False), (8, True)):
        config = ModelConfig(**SHAPE | {"head_dim": size})
        on, off = (
            activation_bytes(config, 2, 64, document_mask=mask, accelerator="cuda")
            for mask in (True, False)
        )
        assert (on - off == 2 * 64**2) == (not keeps)


@pytest.mark.parametrize(
    ("precision", "dtype", "accelerator"),
    [
        ("32-true", torch.float32, "cuda"),
        ("32-true", torch.float32, "cpu"),
        ("bf16-true", torch.bfloat16, "cpu"),
    ],
)
def test_the_loss_takes_as_many_bytes_for_each_logit(monkeypatch, precision, dtype, accelerator):
    from mobilellm.losses import label_losses
    from mobilellm.losses.cross_entropy import chunked_cross_entropy

    rows, vocab, width = 512, 2048, 8
    # As on a GPU the softmax takes all rows at a time; on a CPU a few, here one sixty-fourth.
    block = rows * vocab if accelerator == "cuda" else rows * vocab // 64
    monkeypatch.setattr(label_losses, "CPU_BLOCK_LOGITS", block)
    head = torch.nn.Parameter(torch.randn(vocab, width, dtype=dtype))
    # Several chunks: those before must not be in memory any more.
    hidden = torch.randn(3 * rows, width, dtype=dtype, requires_grad=True)
    labels = torch.randint(vocab, (3 * rows,))

    def loss():
        chunked_cross_entropy(hidden, lambda x: x @ head.t(), labels, chunk_tokens=rows)

    config = ModelConfig(**SHAPE | {"vocab_size": vocab, "hidden_size": width})
    forecast = training_memory_bytes(
        config, 1, rows, precision=precision, accelerator=accelerator
    ).loss
    assert peak_bytes(loss) == pytest.approx(forecast, rel=0.07)


def peak_bytes(work):
    """The most that is allocated at one time while `work` runs, as PyTorch's allocator counts."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        work()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def test_checkpointing_keeps_the_input_of_every_application():
    config = ModelConfig(**SHAPE, block_repeats=2)
    checkpointed = activation_bytes(config, 4, 64, activation_checkpointing=True)
    deeper = ModelConfig(**SHAPE | {"num_blocks": 3}, block_repeats=2)
    more = activation_bytes(deeper, 4, 64, activation_checkpointing=True) - checkpointed
    assert more == 4 * 64 * 2 * 96 * 4
    assert checkpointed < activation_bytes(config, 4, 64) / 2


@pytest.mark.parametrize("make", [adamw, muon])
def test_optimizer_state_is_as_large_as_a_real_one(make):
    config = ModelConfig(**SHAPE)
    model = MobileLLM(config)
    optimizer = make(model, learning_rate=1e-3)
    model(torch.randint(100, (1, 8))).logits.sum().backward()
    optimizer.step()
    tensors = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value) and value.ndim > 0
    ]
    real = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert optimizer_bytes(config, make.__name__) == real
    weights = sum(weight.numel() * 4 for weight in model.state_dict().values())
    assert checkpoint_bytes(config, make.__name__) == weights + real


def test_the_parts_of_a_step():
    config = ModelConfig(**SHAPE)
    stored = count_parameters(config).stored
    memory = training_memory_bytes(config, 2, 64)
    assert (memory.weights, memory.gradients, memory.optimizer) == (
        4 * stored, 4 * stored, 8 * stored,
    )  # fmt: skip
    parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations, memory.loss)
    assert memory.total == sum(parts)
    half = training_memory_bytes(config, 2, 64, precision="bf16-true")
    assert half.total < 0.6 * memory.total
    sharded = training_memory_bytes(config, 2, 64, num_shards=4)
    assert sharded.optimizer == -(-memory.optimizer // 4)
    assert sharded.activations == memory.activations


def test_the_loss_holds_one_chunk_of_logits():
    config = ModelConfig(**SHAPE | {"vocab_size": 32_000})
    few, many = (training_memory_bytes(config, size, 512).loss for size in (1, 64))
    assert few == many == 8 * (2**22 // 32_000) * 32_000 + 2 * 4 * 32_000 * 96
    assert training_memory_bytes(config, 1, 8).loss < few
    assert training_memory_bytes(config, 64, 512, accelerator="cuda").loss > few


@pytest.mark.parametrize("divides", [1, 6, 13, 64])
def test_the_largest_micro_batch_fits_and_the_next_does_not(divides):
    config = ModelConfig(**SHAPE)

    def needed(size):
        return training_memory_bytes(config, size, 128).total

    for memory in (needed(1), needed(1) * 1.5, needed(5), needed(40)):
        size = largest_micro_batch(config, memory, 128, divides=divides)
        assert divides % size == 0
        assert needed(size) <= memory
        larger = [n for n in range(size + 1, divides + 1) if divides % n == 0]
        assert all(needed(n) > memory for n in larger)


def test_too_little_memory_for_one_sequence_names_the_remedies():
    message = (
        r"one sequence of 128 tokens needs .*B, but 1 kB are available; use a shorter "
        r"sequence_length, trainer\.activation_checkpointing=true"
    )
    with pytest.raises(ValueError, match=message):
        largest_micro_batch(ModelConfig(**SHAPE), 1000, 128, divides=4)


def test_unknown_choices_are_listed_nearest_first():
    config = ModelConfig(**SHAPE)
    with pytest.raises(ValueError, match="optimizer='adam' is not known; use one of adamw, "):
        training_memory_bytes(config, 1, 8, optimizer="adam")
    with pytest.raises(ValueError, match="precision='bf16' is not known; use one of bf16-"):
        training_memory_bytes(config, 1, 8, precision="bf16")
    with pytest.raises(ValueError, match="micro_batch_size=0 must be a whole number"):
        activation_bytes(config, 0, 8)
