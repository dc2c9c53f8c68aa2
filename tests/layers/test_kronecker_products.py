"""What `KroneckerLinear` runs: no copy of a weight, no product formed, compiled the same."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mobilellm.layers.factorized import FactorizedLinear
from mobilellm.layers.kronecker import KroneckerLinear

SHAPES = {
    "low rank": ((40, 1), (1, 24), 3),
    "a row as right factor": ((40, 12), (1, 2), 1),
    "a column as right factor": ((20, 24), (2, 1), 1),
    "a square": ((10, 6), (4, 4), 1),
    "left factors first": ((2, 12), (20, 2), 1),
    "several terms, left first": ((2, 12), (20, 2), 2),
    "several terms": ((20, 12), (2, 2), 3),
}


class Operations(TorchDispatchMode):
    """Names of the operations that run, and the sizes of what they give."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.found.append((str(func), result))
        return result


def make_layer(left, right, num_terms):
    torch.manual_seed(0)
    return KroneckerLinear(torch.randn(num_terms, *left), torch.randn(num_terms, *right))


def operations(layer, tokens=50):
    x = torch.randn(tokens, layer.in_features)
    with torch.no_grad(), Operations() as ran:
        layer(x)
    return ran.found


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_two_products_and_the_weight_is_never_formed(shape):
    layer = make_layer(*shape)
    found = operations(layer, tokens=1)
    assert sum(".mm" in name or ".bmm" in name for name, _ in found) == 2
    formed = layer.out_features * layer.in_features
    assert all(result.numel() < formed for _, result in found)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("autocast", [False, True])
def test_all_tokens_share_a_product(shape, autocast):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = operations(make_layer(*shape))
    # A product of batches would have a copy of the factors for each token.
    assert [name for name, _ in found if "bmm" in name or "expand" in name] == []


@pytest.mark.parametrize("name", [name for name in SHAPES if "several" not in name])
def test_no_weight_is_copied(name):
    layer = make_layer(*SHAPES[name])
    copied = [
        tuple(result.shape)
        for operation, result in operations(layer)
        if any(word in operation for word in ("clone", "copy", "reshape", "contiguous"))
    ]
    # Values are (50, …): what has no 50 in its size would be a weight.
    values = [shape for shape in copied if any(size % 50 == 0 for size in shape)]
    assert copied == values


@pytest.mark.parametrize("shape", [SHAPES["low rank"], SHAPES["a row as right factor"]])
def test_low_rank_and_rows_copy_nothing_at_all(shape):
    found = operations(make_layer(*shape))
    views = ("view", "transpose", "permute", "aten.t.", "squeeze", "expand", "detach", "alias")
    computed = [name for name, _ in found if not any(view in name for view in views)]
    assert computed == ["aten.mm.default", "aten.mm.default"]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("sizes", [(), (3,), (2, 5), (2, 3, 4)])
def test_any_number_of_dimensions_goes_in(shape, sizes):
    layer = make_layer(*shape)
    x = torch.randn(*sizes, layer.in_features)
    terms = zip(layer.left, layer.right, strict=True)
    wanted = x @ sum(torch.kron(left, right) for left, right in terms).T
    torch.testing.assert_close(layer(x), wanted, atol=1e-4, rtol=1e-4)
    turned = torch.randn(*sizes[::-1], layer.in_features).movedim(0, -1).movedim(-1, 0)
    assert layer(turned).shape == (*sizes[::-1], layer.out_features)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_compiled_layers_give_the_same(shape):
    orders = {"row_order": torch.randperm(40), "column_order": torch.randperm(24)}
    layer = FactorizedLinear([make_layer(*shape)], **orders)
    x = torch.randn(3, 7, 24, requires_grad=True)
    # Without a C++ compiler there is still what comes before it: tracing whole, and autograd.
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    gradients = [
        torch.autograd.grad(model(x).square().sum(), [x, *layer.parameters()])
        for model in (compiled, layer)
    ]
    torch.testing.assert_close(*gradients)
