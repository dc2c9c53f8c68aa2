import pytest
import torch

from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.initialization import initialize_


def make_config(**changes):
    return ModelConfig(
        vocab_size=500, hidden_size=100, intermediate_size=300, num_blocks=2, block_repeats=4,
        num_attention_heads=2, qk_norm="rms", **changes,
    )  # fmt: skip


def split(model):
    matrices = {name: p for name, p in model.named_parameters() if p.dim() == 2}
    vectors = [p for p in model.parameters() if p.dim() == 1]
    return matrices, vectors


@pytest.mark.parametrize("tied", [True, False])
def test_a_new_model_has_metas_initial_weights(tied):
    matrices, vectors = split(MobileLLM(make_config(tie_word_embeddings=tied)))
    assert vectors and all(vector.eq(1).all() for vector in vectors)
    assert ("head.weight" in matrices) is not tied
    for name, matrix in matrices.items():
        assert matrix.std().item() == pytest.approx(0.02, rel=0.05), name
        assert abs(matrix.mean().item()) < 0.001, name


def test_std_by_width_and_residual_scaling():
    model = MobileLLM(make_config())
    initialize_(model, std="hidden", residual_scaling=True, seed=3)
    for name, matrix in split(model)[0].items():
        # 8 applications with two writes each
        scale = 0.25 if "o_proj" in name or "down_proj" in name else 1.0
        assert matrix.std().item() == pytest.approx(0.1 * scale, rel=0.05), name


def test_a_seed_is_repeatable_and_leaves_the_global_generator_alone():
    first, second = MobileLLM(make_config()), MobileLLM(make_config())
    before = torch.get_rng_state()
    initialize_(first, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    initialize_(second, seed=0)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    initialize_(second, seed=1)
    assert not torch.equal(first.embedding.weight, second.embedding.weight)


def test_the_global_seed_makes_a_new_model_repeatable():
    models = []
    for _ in range(2):
        torch.manual_seed(7)
        models.append(MobileLLM(make_config()))
    assert torch.equal(models[0].embedding.weight, models[1].embedding.weight)


@pytest.mark.parametrize("std", [0, -1.0, "width", float("nan")])
def test_a_wrong_std_is_refused(std):
    with pytest.raises(ValueError, match=r"must be a (finite )?number above 0 .*hidden"):
        initialize_(MobileLLM(make_config()), std=std)
