r"""Talk with a model in the terminal, or try one or two models on a page in the browser.

The model is a model folder, a run folder, or a Hugging Face folder. Messages are written by its own
chat template; a model without one continues each line. If the input is a pipe, each line is a
message of one conversation.

  mobilellm chat MODEL_DIR --temperature 0.7 --top-p 0.9
  mobilellm chat MODEL_DIR --functions functions.json --constrained
  mobilellm chat MODEL_DIR OTHER_DIR --web
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mobilellm.cli.command import run_command
from mobilellm.commands import command_parser
from mobilellm.paths import user_path

if TYPE_CHECKING:
    from mobilellm.inference.functions import Function

DEFAULT_PORT = 8080
DEFAULT_MAX_NEW_TOKENS = 512


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; `arguments` default to the command line."""
    run_command(functools.partial(run, arguments))


def run(arguments: Sequence[str] | None) -> None:
    """Read the arguments and talk."""
    options = _parser().parse_args(arguments)
    _check(options)
    functions, schema = _functions_and_schema(options)

    if options.web:
        from mobilellm.chat.web import serve

        serve(options.folders, DEFAULT_PORT if options.port is None else options.port)
        return
    from mobilellm.models.generation import check_sampling

    max_new_tokens = options.max_new_tokens
    if max_new_tokens is None:
        max_new_tokens = DEFAULT_MAX_NEW_TOKENS
    sampling = {"temperature": options.temperature or 0.0, "top_k": options.top_k,
                "top_p": options.top_p, "seed": options.seed}  # fmt: skip
    check_sampling(max_new_tokens, **sampling)
    from mobilellm.accounting import count_parameters
    from mobilellm.chat.terminal import TerminalChat
    from mobilellm.inference.chat_session import ChatSession
    from mobilellm.inference.loaded_model import load
    from mobilellm.units import count_text

    loaded = load(options.folders[0], tokenizer=options.tokenizer)
    chat = TerminalChat(
        ChatSession(loaded, functions=functions, schema=schema),
        max_new_tokens=max_new_tokens,
        sampling=sampling,  # pyright: ignore[reportArgumentType]
        system=options.system,
        functions=functions,
    )
    stored = count_text(count_parameters(loaded.config).stored)
    context = loaded.config.max_position_embeddings
    chat.run(f"{loaded.folder.name}: {stored} parameters, context of {context} tokens")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("chat", __doc__)
    add = parser.add_argument
    add("folders", nargs="+", type=user_path, metavar="MODEL_DIR",
        help="model, run or Hugging Face folder; with --web, one or two")  # fmt: skip
    add("--system", metavar="TEXT", help="message of the system")
    add("--max-new-tokens", type=int, help=f"per answer; default: {DEFAULT_MAX_NEW_TOKENS}")
    add("--temperature", type=float, help="0: greedy (default)")
    add("--top-k", type=int, help="sample only from the k most likely tokens")
    add("--top-p", type=float,
        help="sample only from the most likely tokens with this total probability")  # fmt: skip
    add("--seed", type=int, help="seed of the sampling (default: a different one each time)")
    add("--tokenizer", type=user_path, help="tokenizer.model or .json (default: MODEL_DIR's own)")
    add("--functions", type=user_path, metavar="FILE",
        help="JSON list of functions that the model may call; calls are checked")  # fmt: skip
    add("--constrained", action="store_true",
        help="with --functions: let every answer be a valid call")  # fmt: skip
    add("--schema", type=user_path, metavar="FILE",
        help="JSON schema that every answer satisfies")  # fmt: skip
    add("--web", action="store_true", help="serve a page for this machine's browser instead")
    add("--port", type=int, help=f"with --web; 0: any free port (default: {DEFAULT_PORT})")
    return parser


def _check(options: argparse.Namespace) -> None:
    """Check that no argument is ignored.

    Raises:
        ValueError: arguments contradict each other, or one has no effect.
    """
    if options.web:
        names = ("system", "max_new_tokens", "temperature", "top_k", "top_p", "seed", "tokenizer",
                 "functions", "schema")  # fmt: skip
        given = [name for name in names if getattr(options, name) is not None]
        given += ["constrained"] * options.constrained
        if given:
            raise ValueError(
                f"--{given[0].replace('_', '-')} has no effect with --web, where the settings are "
                "on the page; leave it out"
            )
        if len(options.folders) > 2:
            raise ValueError(f"{len(options.folders)} models are given; --web compares at most two")
        if options.port is not None and not 0 <= options.port <= 65535:
            raise ValueError(f"--port {options.port} must lie between 0 and 65535")
        return
    if options.port is not None:
        raise ValueError("--port has no effect without --web; give both, or leave it out")
    if len(options.folders) > 1:
        raise ValueError(
            f"{len(options.folders)} models are given, and the terminal talks with one; give one, "
            "or compare two with --web"
        )
    if options.constrained and options.functions is None:
        raise ValueError("--constrained has no effect without --functions FILE; give both")
    if options.constrained and options.schema is not None:
        raise ValueError("--constrained and --schema both constrain the answers; give one of them")


def _functions_and_schema(
    options: argparse.Namespace,
) -> "tuple[Sequence[Function], dict[str, Any] | None]":
    """The functions, and the schema of every answer, if there is one."""
    if options.functions is None and options.schema is None:
        return (), None
    from mobilellm.inference.constrained import check_installed
    from mobilellm.inference.functions import calls_schema, read_functions

    check_installed()
    functions = () if options.functions is None else read_functions(options.functions)
    if options.constrained:
        return functions, calls_schema(functions)
    return functions, None if options.schema is None else _schema(options.schema)


def _schema(path: Path) -> dict[str, Any]:
    from mobilellm.inference.functions import read_json_file

    schema = read_json_file(path)
    if not isinstance(schema, dict):
        raise ValueError(f"{path} must contain a JSON schema, which is an object")
    return schema
