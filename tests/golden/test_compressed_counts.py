"""Parameter counts of compressed GPT-2s that others published, to the last digit.

Sources: Edalati et al. 2022, KnGPT-2, arXiv:2110.08152; Abronin et al. 2024, TQCompressor,
arXiv:2401.16367, and the configuration in its repository. Their counts leave out the output head,
which in their code stays a dense copy of the table.
"""

import pytest

from mobilellm.layers.factorized import FactorizedShape
from mobilellm.layers.part_shape import part_with_right

VOCAB, WIDTH, CONTEXT, BLOCKS = 50257, 768, 1024, 12
ODD, ALL = range(1, BLOCKS, 2), range(BLOCKS)
# Queries, keys and values as matrices of their own: both papers factorise them apart.
BLOCK = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), (WIDTH, WIDTH)),
    "c_fc": (4 * WIDTH, WIDTH),
    "c_proj": (WIDTH, 4 * WIDTH),
}
GPT2 = {"wte": (VOCAB, WIDTH), "wpe": (CONTEXT, WIDTH)} | {
    f"{block}.{name}": size for block in range(BLOCKS) for name, size in BLOCK.items()
}
BIASES = sum(rows for rows, _ in BLOCK.values())
NORM = 2 * WIDTH
OTHER = BLOCKS * (BIASES + 2 * NORM) + NORM
DENSE_HEAD = 38_597_376

QKV, FFN = ("q_proj", "k_proj", "v_proj"), ("c_fc", "c_proj")


def count_with(sizes, replacements, other=0):
    """Parameters stored: of factorised matrices, dense ones, and `other` (biases, norms)."""
    assert all(sizes[name] == shape.size for name, shape in replacements.items())
    return other + sum(
        replacements[name].parameters if name in replacements else rows * columns
        for name, (rows, columns) in sizes.items()
    )


def with_right(names, right, num_terms=1, blocks=ODD):
    return {
        f"{block}.{name}": FactorizedShape(parts=(part_with_right(BLOCK[name], right, num_terms),))
        for block in blocks
        for name in names
    }


TABLE = {"wte": FactorizedShape(parts=(part_with_right((VOCAB, WIDTH), (1, 2)),))}
# KnGPT-2: half the parameters and two entries for each matrix of every second block.
KNGPT2 = TABLE | with_right(QKV + FFN, (2, 1))
# TQCompressor's public configuration: four terms of (768x384)⊗(4x2), (384x768)⊗(2x4), which
# with its (in, out) weights are written the other way around.
TQ = TABLE | with_right(["c_fc"], (4, 2), 4) | with_right(["c_proj"], (2, 4), 4)


def test_gpt2_itself():
    assert count_with(GPT2, {}, OTHER) == 124_439_808
    assert VOCAB * WIDTH == DENSE_HEAD


@pytest.mark.parametrize(
    ("replacements", "count"),
    [
        (KNGPT2, 85_676_990),
        (KNGPT2 | with_right(["o_proj"], (2, 1)), 83_907_530),
        (TQ, 90_985_730),
        (TQ | with_right(QKV, (2, 1)), 85_677_350),
        (TQ | with_right((*QKV, "o_proj"), (2, 1)), 83_907_890),
        (TQ | with_right(QKV, (2, 1), blocks=ALL), 80_368_970),
    ],
)
def test_published_counts(replacements, count):
    assert count_with(GPT2, replacements, OTHER) == count
    with_head = GPT2 | {"lm_head": (VOCAB, WIDTH)}
    assert count_with(with_head, replacements, OTHER) == count + DENSE_HEAD
