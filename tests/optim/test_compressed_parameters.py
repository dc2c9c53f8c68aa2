import torch

from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.optim import muon
from mobilellm.optim.parameter_groups import parameter_groups, parameters_by_role

UP = "blocks.0.feed_forward.up_proj"
LAYERS = {
    UP: {"parts": [{"left": (40, 1), "right": (1, 24), "num_terms": 3}], "row_permutation": True},
    "blocks.0.feed_forward.gate_proj": {"nonzero": 9},
    "embedding": {"parts": [{"left": (62, 12), "right": (1, 2)}]},
    "head": {"parts": [{"left": (62, 12), "right": (1, 2)}]},
}


def make_model():
    torch.manual_seed(0)
    return MobileLLM(
        ModelConfig(
            vocab_size=62, hidden_size=24, intermediate_size=40, num_blocks=1,
            num_attention_heads=6, tie_word_embeddings=False, compressed_layers=LAYERS,
        )
    )  # fmt: skip


def names_of(model, parameters):
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    return {by_id[id(parameter)] for parameter in parameters}


def test_factors_have_the_role_of_the_matrix_they_make():
    model = make_model()
    roles = {role: names_of(model, found) for role, found in parameters_by_role(model).items()}
    tables = {
        f"{end}.parts.0.{side}" for end in ("embedding", "head") for side in ("left", "right")
    }
    assert roles["embedding"] == tables
    assert {f"{UP}.parts.0.left", f"{UP}.parts.0.right"} < roles["matrix"]
    assert "blocks.0.feed_forward.gate_proj.weight" in roles["matrix"]
    assert all("norm" in name for name in roles["vector"])
    assert sum(map(len, roles.values())) == len(list(model.parameters()))


def test_factors_are_decayed_like_their_matrix():
    groups = parameter_groups(make_model(), weight_decay=0.3, decay_embeddings=False)
    decays = {group["role"]: group["weight_decay"] for group in groups}
    assert decays == {"matrix": 0.3, "embedding": 0.0, "vector": 0.0}


def test_muon_takes_matrices_and_leaves_factors_to_adamw():
    model = make_model()
    optimizer = muon(model, learning_rate=1e-2)
    taken = {
        algorithm: names_of(
            model,
            [p for g in optimizer.param_groups if g["algorithm"] == algorithm for p in g["params"]],
        )
        for algorithm in ("muon", "adamw")
    }
    assert "blocks.0.feed_forward.gate_proj.weight" in taken["muon"]
    factors = {name for name, _ in model.named_parameters() if ".parts." in name}
    assert factors <= taken["adamw"]
    assert not factors & taken["muon"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(torch.randint(62, (2, 9))).logits.square().mean().backward()
    optimizer.step()
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())
