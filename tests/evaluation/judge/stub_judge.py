"""A server on this machine that answers as a judge would, by a function of the messages."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@contextmanager
def judge_server(answer: Callable[[dict], tuple[int, str]]) -> Iterator[tuple[str, list[dict]]]:
    """Serve `POST /v1/chat/completions`.

    Args:
        answer: maps a request, with its headers under `headers`, to a status and the body.

    Yields:
        The URL, and the requests so far.
    """
    requests: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            request = json.loads(content) | {"path": self.path, "headers": dict(self.headers)}
            requests.append(request)
            status, body = answer(request)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completion(text: str) -> str:
    """The body of a response with this text."""
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


def answers_in(request: dict) -> tuple[str, str]:
    """Answers A and B in the question of a request."""
    text = request["messages"][-1]["content"]
    first, _, second = text.partition("# Answer A\n\n")[2].partition("\n\n# Answer B\n\n")
    return first, second
