"""Programs that run models on devices behind one interface: llama.cpp, ExecuTorch and torch."""

from typing import TYPE_CHECKING, Any

from mobilellm.public_names import import_public_name

if TYPE_CHECKING:
    from mobilellm.evaluation.engines.engine import Engine, Run, Step
    from mobilellm.evaluation.engines.executorch_engine import ExecuTorch
    from mobilellm.evaluation.engines.llama_cpp import LlamaCpp
    from mobilellm.evaluation.engines.torch_engine import TorchEngine

__all__ = ["Engine", "ExecuTorch", "LlamaCpp", "Run", "Step", "TorchEngine"]

_MODULES = {
    "Engine": "mobilellm.evaluation.engines.engine",
    "ExecuTorch": "mobilellm.evaluation.engines.executorch_engine",
    "LlamaCpp": "mobilellm.evaluation.engines.llama_cpp",
    "Run": "mobilellm.evaluation.engines.engine",
    "Step": "mobilellm.evaluation.engines.engine",
    "TorchEngine": "mobilellm.evaluation.engines.torch_engine",
}


def __getattr__(name: str) -> Any:
    """Import an engine when it is used: llama.cpp is measured without the memory of torch."""
    return import_public_name(__name__, name, _MODULES)
