"""Writes `.pte` files, the format of ExecuTorch, with the package `executorch`."""

from mobilellm.formats.executorch.export import PTE_SUFFIX, export_executorch
from mobilellm.formats.executorch.summary import ExecutorchExport

__all__ = ["PTE_SUFFIX", "ExecutorchExport", "export_executorch"]
