"""A GGUF file in llama.cpp, by the package `xllamacpp`.

The package has llama.cpp's own server in this process. Its Python functions return text only, so
that token ids go over the server's port on this machine.
"""

import http.client
import importlib
import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mobilellm.evaluation.engines.engine import Engine, Run, Step
from mobilellm.models.checks import check_choice

CACHE_TYPES = ("f32", "f16", "q8_0")
_ERRORS_ONLY = 1


class LlamaCpp(Engine):
    """A model in llama.cpp on the CPU.

    llama.cpp ends the process if a file has no vocabulary at all.

    Args:
        path: of a GGUF file.
        context: number of tokens of prompt and continuation together.
        threads: number of CPU threads. More threads than free cores make it many times slower.
        cache_type: type of the keys and values: `f32`, `f16` or `q8_0`. With `f32`, flash attention
            is off, because it rounds to 16 bits.
        top: number of tokens that `Step.log_probabilities` contains.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: llama.cpp cannot open the file (its reason is on stderr), or the package is not
            installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        context: int = 512,
        threads: int = 1,
        cache_type: str = "f16",
        top: int = 2,
    ) -> None:
        """Load the model."""
        check_choice("cache_type", cache_type, CACHE_TYPES)
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path} does not exist; give a GGUF file")
        self._top = top
        self._tokens: list[int] = []
        self._server: Any = _open_server(str(path), context, threads, cache_type)
        self._address = urlsplit(self._server.listening_address).netloc

    def prefill(self, tokens: Sequence[int]) -> Step:
        """See `Engine`."""
        self._tokens = list(tokens)
        return self._next(cache_prompt=False)

    def decode(self, token: int) -> Step:
        """See `Engine`."""
        self._tokens.append(token)
        return self._next(cache_prompt=True)

    def run(self, tokens: Sequence[int], num_tokens: int, *, never: Collection[int] = ()) -> Run:
        """See `Engine`; the times are those that llama.cpp measures itself.

        There are two requests, the second of which continues with the cache of the first, so that
        their processor times can be told apart.
        """
        start = time.process_time()
        first = self._complete(tokens, 1, never, cache_prompt=False)
        read = time.process_time()
        times, added, decode_ms = first["timings"], list(first["tokens"]), 0.0
        if num_tokens > 1:
            rest = self._complete([*tokens, *added], num_tokens - 1, never, cache_prompt=True)
            added += rest["tokens"]
            decode_ms = rest["timings"]["prompt_ms"] + rest["timings"]["predicted_ms"]
        return Run(
            tokens=tuple(added), prefill_seconds=times["prompt_ms"] / 1000,
            decode_seconds=decode_ms / 1000, prefill_cpu_seconds=read - start,
            decode_cpu_seconds=time.process_time() - read,
        )  # fmt: skip

    def _complete(
        self, tokens: Sequence[int], num_tokens: int, never: Collection[int], *, cache_prompt: bool
    ) -> dict[str, Any]:
        return self.post(
            "/completion", prompt=list(tokens), n_predict=num_tokens, temperature=0,
            ignore_eos=True, logit_bias=[[token, False] for token in never], return_tokens=True,
            cache_prompt=cache_prompt,
        )  # fmt: skip

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        """The tokens of a text.

        Args:
            text: to split.
            add_special: whether begin- and end-of-text tokens are added, as the file says.
            parse_special: whether names of special tokens in the text become special tokens.
        """
        found = self.post(
            "/tokenize", content=text, add_special=add_special, parse_special=parse_special
        )
        return found["tokens"]

    def close(self) -> None:
        """See `Engine`."""
        self._server = None  # its destructor stops the server

    def post(self, path: str, **values: Any) -> dict[str, Any]:
        """Send a request to llama.cpp's server.

        Args:
            path: such as `/completion`.
            values: the fields of the request; see the documentation of llama.cpp's server.

        Raises:
            ValueError: the engine is closed, or llama.cpp refuses the request.
        """
        if self._server is None:
            raise ValueError("the engine is closed; create another one")
        # No proxy of the environment, unlike `urllib`.
        connection = http.client.HTTPConnection(self._address)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(values, allow_nan=False), headers)
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if "error" in answer:
            raise ValueError(f"llama.cpp refuses the request {path}: {answer['error']['message']}")
        return answer

    def _next(self, *, cache_prompt: bool) -> Step:
        found = self.post(
            "/completion", prompt=self._tokens, n_predict=1, temperature=0, n_probs=self._top,
            cache_prompt=cache_prompt, return_tokens=True,
        )  # fmt: skip
        # Missing after a token that ends inside a character.
        places = found.get("completion_probabilities")
        known = places and {one["id"]: one["logprob"] for one in places[0]["top_logprobs"]}
        return Step(found["tokens"][0], known or None)


def _open_server(path: str, context: int, threads: int, cache_type: str) -> Any:
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")  # it has no types
    except ImportError:
        raise ValueError(
            f"running {path} needs the package xllamacpp, which is not installed; install it with "
            "pip install 'mobilellm[llamacpp]'"
        ) from None
    settings = xllamacpp.CommonParams()
    settings.model.path = path
    settings.n_ctx = context
    settings.n_parallel = 1
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    kind = xllamacpp.ggml_type[f"GGML_TYPE_{cache_type.upper()}"]
    settings.cache_type_k = settings.cache_type_v = kind
    if cache_type == "f32":
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    settings.cache_ram_mib = 0  # sequences of before are not kept
    settings.warmup = settings.fit_params = False
    settings.verbosity = _ERRORS_ONLY
    try:
        return xllamacpp.Server(settings)
    except RuntimeError:
        raise ValueError(f"llama.cpp cannot open {path}") from None
