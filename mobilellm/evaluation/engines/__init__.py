"""Programs that run models on devices behind one interface: llama.cpp, ExecuTorch and torch."""

from mobilellm.evaluation.engines.engine import Engine, Run, Step
from mobilellm.evaluation.engines.executorch_engine import ExecuTorch
from mobilellm.evaluation.engines.llama_cpp import LlamaCpp
from mobilellm.evaluation.engines.torch_engine import TorchEngine

__all__ = ["Engine", "ExecuTorch", "LlamaCpp", "Run", "Step", "TorchEngine"]
