"""A `.pte` file in ExecuTorch, by the package `executorch`."""

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mobilellm.evaluation.engines.engine import Engine, Step


class ExecuTorch(Engine):
    """A program that `export_executorch` wrote, on the CPU.

    Args:
        path: of a `.pte` file.
        threads: number of CPU threads of XNNPACK, which all programs of this process share. None:
            it stays as it is, at first one per core of the machine.
        top: number of tokens that `Step.log_probabilities` contains.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: ExecuTorch cannot open the file, it has other methods, or the package is not
            installed.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None, top: int = 2) -> None:
        """Load the program."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} does not exist; give a .pte file")
        self._top = top
        self._position = 0
        self._program: Any = _load(Path(path))
        if threads is not None:
            _set_threads(threads)
        missing = {"forward", "prefill", "get_prefill_tokens"} - self._program.method_names
        if missing:
            raise ValueError(
                f"{path} has no method {min(missing)}; give a file that `mobilellm export` wrote"
            )
        self._prefill_tokens = self.constant("get_prefill_tokens")
        self._context = self.constant("get_max_context_len")

    def constant(self, name: str) -> Any:
        """The value of a method without inputs, such as `get_vocab_size`."""
        return self._loaded.load_method(name).execute([])[0]

    def prepare(self) -> None:
        """Load both methods; XNNPACK packs the weights then."""
        for name in ("prefill", "forward"):
            self._loaded.load_method(name)

    def prefill(self, tokens: Sequence[int]) -> Step:
        """See `Engine`.

        Raises:
            ValueError: there is no token, or there are more than the cache has room for.
        """
        if not 1 <= len(tokens) <= self._context:
            raise ValueError(
                f"{len(tokens)} tokens do not fit into a cache of {self._context}; give at least "
                "one and at most that many"
            )
        self._position = 0
        size = self._prefill_tokens
        *before, last = [list(tokens[i : i + size]) for i in range(0, len(tokens), size)]
        for chunk in before:
            self._chunk(chunk)
        return self._chunk(last)

    def decode(self, token: int) -> Step:
        """See `Engine`.

        Raises:
            ValueError: the cache is full.
        """
        if self._position >= self._context:
            raise ValueError(
                f"the cache has no room for more than {self._context} tokens; export the model "
                "with a larger --context"
            )
        return self._run("forward", [token], 1)

    def close(self) -> None:
        """See `Engine`."""
        self._program = None

    @property
    def _loaded(self) -> Any:
        if self._program is None:
            raise ValueError("the engine is closed; create another one")
        return self._program

    def _chunk(self, tokens: list[int]) -> Step:
        """Read up to `_prefill_tokens` tokens; at the end of the cache, one by one."""
        if self._position + self._prefill_tokens <= self._context:
            padding = [0] * (self._prefill_tokens - len(tokens))
            return self._run("prefill", tokens + padding, len(tokens))
        return [self.decode(token) for token in tokens][-1]

    def _run(self, method: str, tokens: list[int], count: int) -> Step:
        inputs = [torch.tensor([tokens]), torch.tensor([self._position])]
        if method == "prefill":
            inputs.append(torch.tensor([count - 1]))
        logits = self._loaded.load_method(method).execute(inputs)[0]
        self._position += count
        found = logits[0].log_softmax(-1).topk(self._top)
        places, values = found.indices.tolist(), found.values.tolist()
        return Step(places[0], dict(zip(places, values, strict=True)))


def _set_threads(threads: int) -> None:
    library: Any = importlib.import_module("executorch.extension.pybindings.portable_lib")
    # Another number must not be set while a program runs, which none does here.
    if library._threadpool_get_thread_count() != threads:
        library._unsafe_reset_threadpool(threads)


def _load(path: Path) -> Any:
    # They report what cannot be loaded here, and is not needed.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        runtime: Any = importlib.import_module("executorch.runtime")
    except ImportError:
        raise ValueError(
            f"running {path} needs the package executorch, which is not installed; install it with "
            "pip install 'mobilellm[executorch]'"
        ) from None
    try:
        return runtime.Runtime.get().load_program(path)
    except RuntimeError as error:
        raise ValueError(f"ExecuTorch cannot open {path} ({error}); export it again") from None
