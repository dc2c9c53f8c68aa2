"""Measuring from a block on gives what whole forward passes give."""

import pytest
import torch

from mobilellm.compression.calibration import gather_moments
from mobilellm.compression.residual_stream import ResidualStream
from mobilellm.models import MobileLLM, ModelConfig

SHAPE = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_blocks": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip


def make_models(**changes):
    torch.manual_seed(0)
    return [MobileLLM(ModelConfig(**SHAPE, **changes)).eval() for _ in range(2)]


def batches():
    generator = torch.Generator().manual_seed(1)
    for size in (3, 1):
        ids = torch.randint(64, (size, 12), generator=generator)
        documents = torch.randint(0, 2, (size, 12), generator=generator).cumsum(-1)
        yield {"input_ids": ids, "document_ids": documents}


@pytest.mark.usefixtures("uneven_schemes")
@pytest.mark.parametrize(
    "layer_sharing", ["immediate", "repeat_all", "reverse", "sandwich", "last_first"]
)
@pytest.mark.parametrize("block_repeats", [1, 2])
@pytest.mark.parametrize("has_documents", [False, True])
def test_moments_are_those_of_whole_passes(layer_sharing, block_repeats, has_documents):
    model, teacher = make_models(layer_sharing=layer_sharing, block_repeats=block_repeats)
    kept = ("input_ids", "document_ids") if has_documents else ("input_ids",)
    calibration = [{name: batch[name] for name in kept} for batch in batches()]
    streams = {model: ResidualStream(calibration), teacher: ResidualStream(calibration)}
    order = model.config.layer_order
    for block in dict.fromkeys(order):
        for one, stream in streams.items():
            stream.move_to(block, one)
        for kind in ("attention.q_proj", "attention.o_proj", "feed_forward.down_proj"):
            name = f"blocks.{block}.{kind}"
            whole = gather_moments(model, calibration, [name], teacher=teacher)[name]
            short = gather_moments(
                model, calibration, [name], teacher=teacher,
                run=lambda one, number: streams[one].run(one, number),
            )[name]  # fmt: skip
            assert short.tokens == whole.tokens == order.count(block) * 4 * 12
            assert torch.equal(short.inputs, whole.inputs)
            assert torch.equal(short.cross, whole.cross)
            with torch.no_grad():
                model.get_submodule(name).weight.mul_(1.5)


@pytest.mark.usefixtures("uneven_schemes")
def test_a_block_that_lies_behind_is_refused():
    model, _ = make_models(layer_sharing="last_first")
    stream = ResidualStream(list(batches()))
    stream.move_to(1, model)
    with pytest.raises(ValueError, match=r"block 2 first runs at layer 0, but .* before layer 1"):
        stream.move_to(2, model)


def test_blocks_before_do_not_run_again():
    model, _ = make_models()
    calls = []
    for index, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda *_, index=index: calls.append(index))
    calibration = list(batches())
    stream = ResidualStream(calibration)
    for block in range(3):
        stream.move_to(block, model)
        for _ in range(2):
            name = f"blocks.{block}.attention.q_proj"
            gather_moments(model, calibration, [name], run=stream.run)
    # Of two batches: twice to measure each block, as far as its inputs need, and once to go on.
    assert [calls.count(block) for block in range(3)] == [6, 6, 4]


def test_shared_keys_and_values_need_whole_passes():
    [model, _] = make_models(block_repeats=2, share_kv="first")
    assert not ResidualStream.supports(model)
    with pytest.raises(ValueError, match="share_kv=first is not supported"):
        ResidualStream([]).move_to(0, model)
    with pytest.raises(ValueError, match="run the whole model"):
        model.run_layers(torch.zeros(1, 2, 16), slice(0, 1))
