import pytest
import torch
from reference_models import (
    SHARED,
    assert_close,
    copy_to_transformers,
    gradients,
    make_config,
    make_ids,
    make_model,
)

from mobilellm.models.cache import KVCache, cache_slots

pytestmark = pytest.mark.usefixtures("uneven_schemes")


@pytest.mark.parametrize("scheme", SHARED)
@pytest.mark.parametrize("repeats", [2, 3])
def test_a_shared_model_equals_the_same_blocks_written_out(scheme, repeats):
    model = make_model(layer_sharing=scheme, block_repeats=repeats)
    ids = make_ids()
    # The rounding of up to nine layers, which depends on the processor.
    assert_close(model(ids).logits, copy_to_transformers(model)(ids).logits, tolerance=5e-5)


@pytest.mark.parametrize("share_kv", ["own", "first"])
@pytest.mark.parametrize("scheme", SHARED)
@pytest.mark.parametrize("chunks", [[13], [1] * 13, [5, 1, 4, 3], [12, 1]], ids=str)
def test_cached_forward_equals_the_full_one(scheme, share_kv, chunks):
    model = make_model(layer_sharing=scheme, block_repeats=3, share_kv=share_kv, qk_norm="rms")
    ids, cache = make_ids(), KVCache(model.config, capacity=2)
    parts = [model(part, cache).logits for part in ids.split(chunks, dim=1)]
    assert_close(torch.cat(parts, 1), model(ids).logits)
    assert cache.length == 13
    layers = {"sandwich": 5, "last_first": 7}.get(scheme, 9)
    assert cache.num_slots == (layers if share_kv == "own" else 3)


@pytest.mark.parametrize("share_kv", ["own", "first"])
@pytest.mark.parametrize("scheme", SHARED)
def test_a_shared_blocks_gradient_is_the_sum_over_its_uses(scheme, share_kv):
    shared = make_model(layer_sharing=scheme, block_repeats=2, share_kv=share_kv)
    ids = make_ids()
    given = gradients(shared, shared(ids).logits.square().mean())
    # Double precision finite differences along one direction see the sum over all uses.
    shared = shared.double()
    for name, parameter in shared.named_parameters():
        direction = torch.randn_like(parameter)
        direction /= direction.norm()
        losses = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.add_(direction, alpha=step)
                losses.append(shared(ids).logits.square().mean())
                parameter.sub_(direction, alpha=step)
        slope = (losses[0] - losses[1]) / 2e-6
        wanted = (given[name].double() * direction).sum()
        torch.testing.assert_close(wanted, slope, atol=1e-3, rtol=1e-3, msg=name)


@pytest.mark.parametrize("scheme", SHARED)
def test_gradients_of_a_shared_model_are_the_sums_of_the_unrolled_one(scheme):
    shared = make_model(layer_sharing=scheme, block_repeats=2)
    unrolled = make_model(num_blocks=shared.config.num_layers)
    order = shared.config.layer_order
    for layer, index in enumerate(order):
        unrolled.blocks[layer].load_state_dict(shared.blocks[index].state_dict())
    unrolled.embedding.load_state_dict(shared.embedding.state_dict())
    unrolled.norm.load_state_dict(shared.norm.state_dict())
    ids = make_ids()
    given = gradients(shared, shared(ids).logits.square().mean())
    parts = gradients(unrolled, unrolled(ids).logits.square().mean())
    for name, gradient in given.items():
        if not name.startswith("blocks."):
            continue
        _, index, rest = name.split(".", 2)
        layers = [layer for layer, block in enumerate(order) if block == int(index)]
        assert_close(gradient, sum(parts[f"blocks.{layer}.{rest}"] for layer in layers))


@pytest.mark.parametrize("share_kv", ["own", "first"])
@pytest.mark.parametrize("scheme", SHARED)
def test_activation_checkpointing_changes_neither_loss_nor_gradients(scheme, share_kv):
    model = make_model(layer_sharing=scheme, block_repeats=2, share_kv=share_kv)
    ids = make_ids()
    loss = model(ids).logits.square().mean()
    wanted = gradients(model, loss)
    model.set_activation_checkpointing(True)
    again = model(ids).logits.square().mean()
    assert again.item() == loss.item()
    for name, gradient in gradients(model, again).items():
        assert torch.equal(gradient, wanted[name]), name


def test_activation_checkpointing_keeps_less():
    def saved_bytes(model):
        seen = {}

        def pack(tensor):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = model(make_ids(), logits=False)
        del output
        return sum(seen.values())

    model = make_model(num_blocks=6)
    before = saved_bytes(model)
    model.set_activation_checkpointing(True)
    assert saved_bytes(model) < before / 2


def test_left_padded_rows_decode_as_if_alone():
    model, ids = make_model(layer_sharing="reverse", block_repeats=2), make_ids(1, 12)
    padded = torch.cat((torch.zeros(1, 4, dtype=torch.long), ids), dim=1)
    mask = (torch.arange(16) >= 4).unsqueeze(0)
    cache, parts, start = KVCache(model.config), [], 0
    for length in (7, 5, 1, 1, 2):
        end = start + length
        parts.append(model(padded[:, start:end], cache, attention_mask=mask[:, :end]).logits)
        start = end
    assert_close(torch.cat(parts, 1)[:, 4:], model(ids).logits)


def test_each_parameter_is_stored_once():
    model = make_model(block_repeats=3, layer_sharing="repeat_all")
    keys = model.state_dict()
    assert sum(tensor.numel() for tensor in keys.values()) == sum(
        parameter.numel() for parameter in model.parameters()
    )
    assert {name.split(".")[1] for name in keys if name.startswith("blocks.")} == {"0", "1", "2"}


def test_the_context_counts_cached_tokens():
    model = make_model()
    cache = KVCache(model.config)
    model(make_ids(1, 30), cache)
    with pytest.raises(ValueError, match="sequence of 33 tokens is longer than max_position"):
        model(make_ids(1, 3), cache)
    assert cache.length == 30
    model(make_ids(1, 2), cache)


def test_slots_count_applications():
    assert cache_slots(make_config(block_repeats=2)) == (0, 1, 2, 3, 4, 5)
    config = make_config(block_repeats=2, share_kv="first", layer_sharing="reverse")
    assert cache_slots(config) == (0, 1, 2, 2, 1, 0)
    changes = {"block_repeats": 2, "num_blocks": 4, "layer_sharing": "last_first"}
    assert cache_slots(make_config(**changes)) == (0, 1, 2, 3, 4, 5)
    # Slots are named by order of first use; blocks 0 and 2 run again.
    assert cache_slots(make_config(**changes, share_kv="first")) == (0, 1, 2, 3, 3, 1)
