"""What an export says of its size."""

import torch

from mobilellm.checkpoint import read_tensors, save_model, stored_bytes
from mobilellm.compression.pruning import Pruning
from mobilellm.formats.export_summary import export_summary
from mobilellm.formats.huggingface import export_huggingface
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.units import bytes_text


def make_model(**changes):
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=40, hidden_size=16, intermediate_size=24, num_blocks=2,
                         num_attention_heads=2, **changes)  # fmt: skip
    return MobileLLM(config)


def test_a_shared_and_masked_model_is_larger_written_out(tmp_path):
    model = make_model(block_repeats=3)
    recipe = Pruning(method="magnitude")
    model = recipe.apply(model, recipe.plan(model, []), []).model
    export_huggingface(model, tmp_path / "out")
    path = tmp_path / "out/model.safetensors"
    written = sum(tensor.numel() for tensor in read_tensors(path).values())
    stored = sum(parameter.numel() for parameter in model.parameters())
    assert written > 2 * stored
    assert export_summary(model, tmp_path / "out") == (
        f"6 layers, {written:,} parameters, {bytes_text(path.stat().st_size)} on disk; the model "
        f"itself has {stored:,} parameters in {bytes_text(stored_bytes(model))}: its 2 shared "
        "blocks are exported once per application, its compressed matrices are exported as dense "
        "ones"
    )


def test_the_bytes_of_another_number_type_are_those_of_its_file(tmp_path):
    model = make_model()
    expected = stored_bytes(model, torch.bfloat16)
    save_model(model.to(torch.bfloat16), tmp_path)
    numbers = read_tensors(tmp_path / "model.safetensors").values()
    assert expected == sum(tensor.nbytes for tensor in numbers)
