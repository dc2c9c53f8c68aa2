"""Quantized matrices against naive arithmetic on single groups, and what their layers compute."""

import itertools
import math
import re

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from mobilellm.layers import describe_tensors, parse_layer_shape
from mobilellm.layers.fake_quantized import FakeQuantizedEmbedding, FakeQuantizedLinear
from mobilellm.layers.nibbles import pack_nibbles, unpack_nibbles
from mobilellm.layers.normal_float import normal_levels, pack_scales
from mobilellm.layers.number_format import NumberFormat
from mobilellm.layers.quantized import QuantizedEmbedding, QuantizedLinear, dense_copies

UNIFORM = [
    NumberFormat(bits=bits, group=group, symmetric=symmetric)
    for bits, group, symmetric in itertools.product((4, 8), (None, 32, 64, 128), (True, False))
]
NF4 = NumberFormat(bits=4, group=64, levels="normal")
FORMATS = [*UNIFORM, NF4]
W8A8 = NumberFormat(bits=8, activation_bits=8)
W4A8 = NumberFormat(bits=4, group=32, activation_bits=8)
# Levels of NF4 as published: Dettmers et al. 2023, arXiv:2305.14314, appendix E.
PUBLISHED = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip


def random_weight(rows=24, columns=256, seed=0):
    """Rows of different sizes, a group of zeros, and a group with values of one sign."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    weight *= 10 ** torch.linspace(-3, 1, rows).unsqueeze(1)
    weight[1, :128] = 0
    weight[2] = weight[2].abs() + 1
    return weight


def naive_group(group, number_format):
    """The values of one group, number by number."""
    low, high = min(0.0, *group), max(0.0, *group)
    top = 2**number_format.bits - 1
    if number_format.symmetric:
        scale, lowest = max(high, -low) / (top / 2), -(top + 1) // 2
    else:
        scale, lowest = (high - low) / top, 0
    scale = max(float(torch.tensor(scale).half()), 2.0**-24)
    zero = 0 if number_format.symmetric else min(max(round(-low / scale), 0), top)
    codes = (min(max(round(w / scale) + zero, lowest), lowest + top) for w in group)
    return [scale * (code - zero) for code in codes]


@pytest.mark.parametrize("number_format", UNIFORM, ids=str)
def test_each_weight_is_rounded_within_its_group(number_format):
    weight = random_weight(rows=6)
    layer = QuantizedLinear.nearest(weight, number_format)
    width = number_format.group or weight.shape[1]
    naive = [
        [value for group in torch.tensor(row).split(width)
         for value in naive_group(group.tolist(), number_format)]
        for row in weight.tolist()
    ]  # fmt: skip
    torch.testing.assert_close(layer.materialize(), torch.tensor(naive), rtol=1e-6, atol=0)


@pytest.mark.parametrize("number_format", FORMATS, ids=str)
def test_the_tensors_take_the_bytes_of_the_arithmetic(number_format):
    rows, columns = size = 24, 256
    layer = QuantizedLinear.nearest(random_weight(*size), number_format)
    groups = rows * columns // (number_format.group or columns)
    per_group = 2 + (not number_format.symmetric)
    wanted = rows * columns * number_format.bits // 8 + groups * per_group
    if number_format is NF4:  # a byte per scale, four per 256 scales, and four for their mean
        wanted = rows * columns // 2 + groups + 4 * math.ceil(groups / 256) + 4
    assert sum(tensor.nbytes for tensor in layer.state_dict().values()) == wanted
    assert layer.shape.cost(size).packed_bytes == wanted
    assert layer.shape.file_bits(size, 32) == layer.shape.file_bits(size, 16) == 8 * wanted
    assert layer.shape.cost(size).parameters == rows * columns
    assert parse_layer_shape(layer.shape.to_dict()) == layer.shape


def test_nf4_takes_the_published_bits_per_weight():
    size = 4096, 4096
    bits = 8 * NF4.packed_bytes(size) / math.prod(size)
    assert bits - 4 == pytest.approx(0.127, abs=5e-4)  # QLoRA, section 3: 0.5 bits become 0.127


def test_nf4_has_the_published_levels():
    torch.testing.assert_close(normal_levels(), torch.tensor(PUBLISHED), atol=3e-7, rtol=0)


def test_nf4_rounds_to_the_nearest_level_of_its_scale():
    weight = torch.randn(40, 128)
    layer = QuantizedLinear.nearest(weight, NF4)
    parts = weight.view(40, 2, 64)
    scales = pack_scales(parts.abs().amax(-1)).unpack().unsqueeze(-1)
    values = scales.unsqueeze(-1) * torch.tensor(PUBLISHED)
    nearest = (parts.unsqueeze(-1) - values).abs().amin(-1)
    error = (layer.materialize() - weight).abs().view(40, 2, 64)
    torch.testing.assert_close(error, nearest, atol=1e-6, rtol=1e-4)


def test_scales_in_eight_bits_are_near():
    scales = torch.rand(30, 20) + 0.1
    packed = pack_scales(scales)
    assert packed.codes.dtype == torch.int8
    assert packed.constants.shape == (3,)
    largest = (scales - scales.mean()).abs().max() / 127
    assert (packed.unpack() - scales).abs().max() <= 0.501 * largest
    same = torch.full((4, 4), 0.3)
    torch.testing.assert_close(pack_scales(same).unpack(), same)


def test_half_bytes_are_packed_in_the_documented_order():
    every = torch.cartesian_prod(torch.arange(16), torch.arange(16)).to(torch.uint8)
    packed = pack_nibbles(every)
    assert packed.flatten().tolist() == [first + 16 * second for first, second in every.tolist()]
    assert torch.equal(unpack_nibbles(packed), every)


@pytest.mark.parametrize("number_format", [*FORMATS[::3], NF4, W8A8, W4A8], ids=str)
def test_the_gradient_of_the_input_is_that_of_the_dense_layer(number_format):
    layer = QuantizedLinear.nearest(random_weight(), number_format, torch.randn(24))
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    x = torch.randn(3, 5, 256, requires_grad=True)
    kept = []
    with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = layer(x)
    assert not kept, "neither the input nor the weight is kept for the backward pass"
    gradient = torch.randn_like(y)
    y.backward(gradient)
    torch.testing.assert_close(x.grad, gradient @ layer.materialize())
    assert all(torch.equal(before[name], t) for name, t in layer.state_dict().items())
    assert [name for name, _ in layer.named_parameters()] == ["bias"]
    if number_format.activation_bits is None:
        dense = nn.functional.linear(x, layer.materialize(), layer.bias)
        torch.testing.assert_close(y, dense)


def test_inputs_are_rounded_token_by_token():
    layer = QuantizedLinear.nearest(random_weight(), W8A8)
    x = torch.randn(7, 256) * torch.logspace(-4, 4, 7).unsqueeze(1)
    x[3] = 0
    step = x.abs().amax(1, keepdim=True) / 127.5
    codes = (x / step.clamp(min=1e-30)).round().clamp(-128, 127)
    wanted = (codes.double() @ layer.codes.double().T) * step * layer.scales.double().T
    integers = layer(x)
    torch.testing.assert_close(integers, wanted.float(), rtol=1e-5, atol=0)
    floats = layer(x.clone().requires_grad_())  # a gradient is needed, so floats are multiplied
    torch.testing.assert_close(floats, integers, rtol=1e-4, atol=1e-4)
    assert layer(x[:0]).shape == (0, 24)
    assert layer(x.view(7, 1, 256)).shape == (7, 1, 24)


@pytest.mark.parametrize("number_format", [*FORMATS[::4], NF4], ids=str)
def test_a_table_serves_both_ends(number_format):
    table = QuantizedEmbedding.nearest(random_weight(), number_format)
    ids, hidden = torch.randint(24, (2, 3)), torch.randn(2, 3, 256)
    weight = table.materialize()
    assert torch.equal(table(ids), weight[ids])
    torch.testing.assert_close(table.unembed(hidden), hidden @ weight.T)
    with dense_copies(table):
        assert table.materialize() is table.materialize(), "it is computed once"
        assert torch.equal(table(ids), weight[ids])
    assert table.materialize() is not table.materialize()


@pytest.mark.parametrize("number_format", [FORMATS[2], FORMATS[3], NF4], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_number_type_of_the_model_changes_no_weight(number_format, dtype):
    layer = QuantizedLinear.nearest(random_weight(), number_format)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    layer.to(dtype).float()
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())
    x = torch.randn(2, 256, dtype=dtype)
    assert layer(x).dtype == dtype
    torch.testing.assert_close(layer(x), x @ layer.materialize().to(dtype).T)


@pytest.mark.parametrize("number_format", [*FORMATS[::3], NF4, W4A8], ids=str)
def test_training_computes_what_the_packed_layer_will(number_format):
    weight, bias = random_weight(), torch.randn(24)
    layer = FakeQuantizedLinear(weight.clone(), number_format, bias)
    packed = layer.quantized()
    x = torch.randn(4, 256)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), packed(x))
    assert torch.equal(layer.materialize(), packed.materialize())
    # The gradient is that of the rounded weight.
    rounded = layer.materialize().detach().requires_grad_()
    x = x if number_format.activation_bits is None else x.div(x).nan_to_num()  # rounded exactly
    gradient = torch.randn(4, 24)
    layer(x).backward(gradient)
    nn.functional.linear(x, rounded).backward(gradient)
    torch.testing.assert_close(layer.weight.grad, rounded.grad, rtol=5e-3, atol=5e-3)
    assert torch.equal(layer.weight, weight)
    assert parse_layer_shape(layer.shape.to_dict()) == layer.shape
    table = FakeQuantizedEmbedding(weight.clone(), number_format)
    ids = torch.tensor([3, 3, 0])
    assert torch.equal(table(ids), table.quantized()(ids))
    assert isinstance(table.quantized(), QuantizedEmbedding)


def test_what_the_tensors_say():
    tensors = QuantizedLinear.nearest(random_weight(), FORMATS[3]).state_dict()
    assert describe_tensors(tensors) == (
        "quantized (codes uint8 (24, 128), scales float16 (24, 8), zeros uint8 (24, 8))"
    )
    assert str(NumberFormat(bits=4, group=32, symmetric=False, activation_bits=8)) == (
        "int4 in groups of 32, asymmetric, inputs in int8"
    )
    assert [one.short_text() for one in (NF4, W4A8, W8A8)] == ["NF4 g64", "int4 g32 a8", "int8 a8"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bits": 3}, "bits=3 is not supported; use 4 or 8"),
        ({"bits": 4, "group": 48}, "group=48 is not supported; use 8, 16, 32, 64, 128, 256, or"),
        ({"bits": 8, "levels": "normal"}, "(NF4) contradicts bits=8, group=None, symmetric=True"),
        ({"bits": 4, "levels": "nf4"}, "levels='nf4' is not known; use uniform or normal"),
        ({"bits": 4, "activation_bits": 4}, "activation_bits=4 is not supported; use 8, or null"),
    ],
)
def test_impossible_formats_are_refused(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        NumberFormat(**values)


@pytest.mark.parametrize(
    ("number_format", "size", "message"),
    [
        (W4A8, (8, 100), "has group=32, which does not divide the 100 inputs of a 8x100 weight; "
         "use null"),
        (FORMATS[6], (8, 576), "use 8 or 16 or 32 or 64 or null"),
        (NumberFormat(bits=4), (8, 9), "the 8x9 weight has an odd number of inputs; use bits=8"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(number_format, size, message):
    with pytest.raises(ValueError, match=message):
        QuantizedLinear.nearest(torch.zeros(size), number_format)


def test_tensors_of_another_format_are_refused():
    tensors = QuantizedLinear.nearest(random_weight(), FORMATS[2]).state_dict()
    with pytest.raises(ValueError, match=r"are codes uint8 .*\(24, 8\); give codes .*\(24, 4\)"):
        QuantizedLinear(NumberFormat(bits=4, group=64), tensors)
    with pytest.raises(ValueError, match="requires the tensor codes, with two dimensions"):
        QuantizedLinear(FORMATS[2], {"scales": tensors["scales"]})


def test_torchao_rounds_to_the_same_values():
    quantize = pytest.importorskip("torchao.quantization.quant_primitives")
    weight = random_weight()[3:]
    for bits, low, high in ((4, -8, 7), (8, -128, 127)):
        scales, zeros = quantize.choose_qparams_affine(
            weight, quantize.MappingType.SYMMETRIC, (1, 32), torch.int8, low, high,
            scale_dtype=torch.float32, zero_point_dtype=torch.int32,
        )  # fmt: skip
        assert not zeros.any()
        layer = QuantizedLinear.nearest(weight, NumberFormat(bits=bits, group=32))
        # Here the scales are rounded to float16, which may move a weight to the next value.
        torch.testing.assert_close(layer.scales.float(), scales.view(21, 8), rtol=1e-3, atol=1e-7)
