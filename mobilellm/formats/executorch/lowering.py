"""Compiles a decoder to an ExecuTorch program, whose computations XNNPACK does."""

import warnings
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mobilellm.formats.executorch.decoder import StaticDecoder

_DELEGATE = "executorch_call_delegate"
_TABLE = "table.weight"
# What must be computed by XNNPACK: outside of it, it would be many times slower.
_MATRIX_PRODUCTS = ("addmm", "bmm", "linear", "mm")
_BOOKKEEPING = ("alloc", "getitem", "view")


def lower(
    decoder: StaticDecoder, methods: Mapping[str, tuple[Any, ...]], constants: Mapping[str, Any]
) -> tuple[Any, dict[str, Counter[str]]]:
    """Compile methods that share the cache and the weights.

    Args:
        decoder: called by every method.
        methods: example inputs by name of the method, with the shapes that it will have.
        constants: methods without inputs, by name, that return a value.

    Returns:
        The program, an `ExecutorchProgramManager`; and for each method the number of its
        operators by name, of which those of XNNPACK count as one.

    Raises:
        ValueError: a matrix product is not done by XNNPACK.
    """
    from executorch.exir import (  # pyright: ignore[reportMissingImports]
        EdgeCompileConfig,
        ExecutorchBackendConfig,
        to_edge_transform_and_lower,
    )
    from executorch.exir.passes import MemoryPlanningPass  # pyright: ignore[reportMissingImports]

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the package, about itself
        exported = {
            name: torch.export.export(decoder, inputs, strict=False)
            for name, inputs in methods.items()
        }
        edge = to_edge_transform_and_lower(
            exported,
            partitioner=[_partitioner()],
            constant_methods=dict(constants),
            # A tied head is not decomposed, so that it reads the table as the look-up does.
            compile_config=EdgeCompileConfig(
                _check_ir_validity=False, preserve_ops=[torch.ops.aten.linear.default]
            ),
        )
        program = edge.to_executorch(
            ExecutorchBackendConfig(
                run_reinplace_pass=True,  # otherwise every write copies the whole cache
                memory_planning_pass=MemoryPlanningPass(share_mutable_buffers=True),
            )
        )
    operators = {name: _operators(program.exported_program(name)) for name in methods}
    for name, counts in operators.items():
        _check_delegated(name, counts, is_tied=decoder.head is None)
    return program, operators


def _partitioner() -> Any:
    """XNNPACK for all that it can compute, except for the product with a tied table.

    XNNPACK has no look-up, and stores the weights of products in its own part of the file: the
    table would be in the file twice.
    """
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS  # pyright: ignore[reportMissingImports]
    from executorch.backends.xnnpack.partition.config.gemm_configs import LinearConfig  # pyright: ignore[reportMissingImports]
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner  # pyright: ignore[reportMissingImports]

    class LinearBesideTable(LinearConfig):
        def check_constraints(self, node: Any, ep: Any) -> bool:
            parameters = ep.graph_signature.inputs_to_parameters
            is_table = parameters.get(node.args[1].name) == _TABLE
            return not is_table and super().check_constraints(node, ep)

    return XnnpackPartitioner(
        configs=[
            LinearBesideTable if config is LinearConfig else config
            for config in ALL_PARTITIONER_CONFIGS
        ]
    )


def _operators(program: Any) -> Counter[str]:
    """Number of calls by name of the operator, such as `index_put_`."""
    targets = (node.target for node in program.graph.nodes if node.op == "call_function")
    names = (str(getattr(target, "__name__", target)) for target in targets)
    return Counter(name.removeprefix("aten.").split(".")[0] for name in names)


def _check_delegated(method: str, counts: Counter[str], *, is_tied: bool) -> None:
    left = sum(counts[name] for name in _MATRIX_PRODUCTS) - is_tied
    if left:
        raise ValueError(
            f"{left} matrix products of the method {method} cannot be computed by XNNPACK "
            f"({dict(counts)}); use another --type, or report this model"
        )


def num_delegates(counts: Mapping[str, int]) -> int:
    """Number of parts that XNNPACK computes."""
    return counts.get(_DELEGATE, 0)


def num_others(counts: Mapping[str, int]) -> int:
    """Number of operators that are computed outside of XNNPACK."""
    return sum(counts.values()) - sum(counts.get(name, 0) for name in (_DELEGATE, *_BOOKKEEPING))


def count_weights(decoder: nn.Module) -> int:
    """Number of weights of a decoder in float32, a tied table counted once."""
    return sum(parameter.numel() for parameter in decoder.parameters())
