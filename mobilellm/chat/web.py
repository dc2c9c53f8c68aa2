"""A page on this machine on which one or two models answer the same messages.

The page is one file of the package, `page.html`. It gets the models from `/models`, and answers,
as server-sent events, from `/answer`. Only this machine can reach the server, and only its own page
may use it.
"""

import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mobilellm.accounting import count_parameters
from mobilellm.cli.errors import describe_error
from mobilellm.cli.messages import print_message
from mobilellm.formats.model_folder import folder_with_config
from mobilellm.inference.chat_session import ChatSession
from mobilellm.inference.loaded_model import load
from mobilellm.strict_json import find_fault, to_json
from mobilellm.units import bytes_text, count_text

logger = logging.getLogger(__name__)

ADDRESS = "127.0.0.1"
_OWN_NAMES = (ADDRESS, "localhost")
_MOST_BYTES = 4_000_000
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_REQUEST = {"model": int, "messages": [{"role": str, "content": str}],
            "max_new_tokens": int, "temperature": float, "seed": (int, type(None))}  # fmt: skip


class PageServer(ThreadingHTTPServer):
    """Serves the page for models that are loaded."""

    daemon_threads = True

    def __init__(self, folders: Sequence[str | Path], port: int) -> None:
        """Load the models and listen.

        Args:
            folders: one or two folders of models.
            port: of this machine; 0: any free one, then in `server_port`.

        Raises:
            FileNotFoundError: a folder or a tokenizer is missing.
            ValueError: a model cannot be read.
            OSError: the port is in use.
        """
        loaded = [load(folder) for folder in folders]
        self.sessions = [ChatSession(one) for one in loaded]
        self.descriptions = [
            {
                "name": one.folder.resolve().name,
                "folder": str(one.folder),
                "parameters": count_text(count_parameters(one.config).stored),
                "bytes": bytes_text(_file_bytes(one.folder)),
                "context": one.config.max_position_embeddings,
                "is_plain": session.is_plain,
            }
            for one, session in zip(loaded, self.sessions, strict=True)
        ]
        # One answer at a time: the speeds of two models at once would say nothing.
        self.lock = threading.Lock()
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise OSError(
                f"cannot listen on port {port} ({error.strerror}); give another with --port N, or "
                "--port 0 for any free one"
            ) from None


class _Handler(BaseHTTPRequestHandler):
    server: PageServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if not self._is_own():
            self.send_error(HTTPStatus.FORBIDDEN)
        elif path == "/":
            self._send("text/html; charset=utf-8", files("mobilellm.chat").joinpath("page.html"))
        elif path == "/models":
            self._send("application/json", to_json(self.server.descriptions).encode())
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not self._is_own() or self.headers.get_content_type() != "application/json":
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.path != "/answer":
            self.send_error(HTTPStatus.NOT_FOUND)
        elif not length.isdecimal() or int(length) > _MOST_BYTES:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            self._answer(self.rfile.read(int(length)))

    def _answer(self, body: bytes) -> None:
        """Stream the events of an answer, until it ends or the page no longer reads."""
        self._begin("text/event-stream; charset=utf-8")
        events = self._events(body)
        try:
            for name, value in events:
                self.wfile.write(f"event: {name}\ndata: {to_json(value, indent=None)}\n\n".encode())
                self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            logger.debug("the page stopped reading an answer")
        finally:
            events.close()  # pyright: ignore[reportAttributeAccessIssue]

    def _events(self, body: bytes) -> Iterator[tuple[str, Any]]:
        """The events of an answer: `begin`, `piece` for each new text, and `done`; or `error`."""
        try:
            request = _checked(body, len(self.server.sessions))
            with self.server.lock:
                yield "begin", None
                yield from _events_of_answer(self.server.sessions[request["model"]], request)
        except Exception as error:
            message = describe_error(error)
            if message is None:
                logger.exception("an answer failed")
                message = f"{type(error).__name__}: {error}; the terminal has the traceback"
            yield "error", message

    def _is_own(self) -> bool:
        """Whether the request comes from this server's page, and not from another in the browser.

        Another page could send requests to this address, also under a name of its own.
        """
        port = self.server.server_port
        hosts = {f"{name}:{port}" for name in _OWN_NAMES}
        origin = self.headers.get("Origin")
        own = {None, *(f"http://{host}" for host in hosts)}
        return self.headers.get("Host") in hosts and origin in own

    def _send(self, kind: str, content: Any) -> None:
        self._begin(kind)
        self.wfile.write(content if isinstance(content, bytes) else content.read_bytes())

    def _begin(self, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def log_message(self, format: str, *values: Any) -> None:
        """Write requests to the log only if it is detailed."""
        logger.debug(format, *values)


def serve(folders: Sequence[str | Path], port: int) -> None:
    """Serve the page until Ctrl-C; arguments and errors as for `PageServer`."""
    with PageServer(folders, port) as server:
        print_message(f"http://{ADDRESS}:{server.server_port} (Ctrl-C ends the server)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print_message("the server has ended")


def _events_of_answer(
    session: ChatSession, request: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    answer, pieces = session.reply(
        request["messages"],
        request["max_new_tokens"],
        temperature=request["temperature"],
        seed=request["seed"],
    )
    for piece in pieces:
        speed = answer.tokens_per_second
        yield "piece", {"text": piece, "tokens": answer.new_tokens, "speed": speed}
    yield (
        "done",
        {
            "tokens": answer.new_tokens,
            "speed": answer.tokens_per_second,
            "prompt_tokens": answer.prompt_tokens,
            "computed_tokens": answer.computed_tokens,
            "prompt_seconds": answer.prompt_seconds,
            "dropped_turns": answer.dropped_turns,
            "end": answer.end,
        },
    )


def _checked(body: bytes, num_models: int) -> dict[str, Any]:
    """The request for an answer.

    Raises:
        ValueError: it is not what the page sends.
    """
    request = json.loads(body)
    fault = find_fault(request, _REQUEST)
    if fault is None and not 0 <= request["model"] < num_models:
        fault = f"model is {request['model']}, and there are {num_models}"
    if fault is not None:
        raise ValueError(f"the request for an answer is not valid: {fault}; load the page again")
    return request


def _file_bytes(folder: Path) -> int:
    """Bytes of the files with the weights."""
    inner = folder_with_config(folder)
    return sum(path.stat().st_size for kind in _WEIGHTS for path in inner.glob(kind))
