"""The server of the page: its models, streamed answers, and the requests that it refuses."""

import http.client
import json
import socket
import threading

import pytest
from chat_models import save_chat_model

from mobilellm.chat.web import PageServer
from mobilellm.inference.chat_session import ChatSession
from mobilellm.inference.loaded_model import load

REQUEST = {
    "model": 0, "messages": [{"role": "user", "content": "the fox"}], "max_new_tokens": 8,
    "temperature": 1, "seed": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return [
        save_chat_model(folder / "fox"),
        save_chat_model(folder / "plain", template=None, seed=1, num_blocks=3),
    ]


@pytest.fixture(scope="module")
def server(folders):
    with PageServer(folders, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def request(server, method, path, body=None, **headers):
    """Status, headers and content of a response."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        headers = {"Content-Type": "application/json", **headers}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers, content


def events(server, **changes):
    """The events of an answer, as the page reads them."""
    status, headers, content = request(
        server, "POST", "/answer", json.dumps(REQUEST | changes).encode()
    )
    assert status == 200
    assert headers.get_content_type() == "text/event-stream"
    blocks = content.decode().split("\n\n")
    assert blocks.pop() == ""
    lines = [block.split("\n") for block in blocks]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in lines
    ]


def test_the_page_and_its_models(server, folders):
    status, headers, content = request(server, "GET", "/?x=1")
    assert (status, headers.get_content_type()) == (200, "text/html")
    assert b"<title>mobilellm chat</title>" in content
    assert content.count(b"http") == 0  # it loads nothing from elsewhere
    first, second = json.loads(request(server, "GET", "/models")[2])
    assert first == {
        "name": "fox", "folder": str(folders[0]), "parameters": first["parameters"],
        "bytes": first["bytes"], "context": 256, "is_plain": False,
    }  # fmt: skip
    assert (second["name"], second["is_plain"]) == ("plain", True)
    weights = (folders[0] / "model.safetensors").stat().st_size
    assert first["bytes"] == f"{weights / 1000:.1f} kB"
    assert request(server, "GET", "/other")[0] == 404


@pytest.mark.parametrize("number", [0, 1])
def test_an_answer_is_streamed(server, folders, number):
    begin, *pieces, (name, done) = events(server, model=number)
    assert (begin, name) == (("begin", None), "done")
    assert {name for name, _ in pieces} == {"piece"}
    text = "".join(value["text"] for _, value in pieces)
    answer, expected = ChatSession(load(folders[number])).reply(
        REQUEST["messages"], 8, temperature=1.0, seed=0
    )
    assert text == "".join(expected)
    assert (done["tokens"], done["prompt_tokens"]) == (answer.new_tokens, answer.prompt_tokens)
    assert done["end"] == answer.end
    assert events(server, model=number)[-1][1]["computed_tokens"] == 1  # the same again


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": 2}, "is not valid: model is 2, and there are 2; load the page again"),
        ({"model": -1}, "model is -1"),
        ({"messages": [{"role": "user"}]}, "content is missing"),
        ({"seed": "x"}, "seed"),
        ({"temperature": -1}, "temperature"),
        ({"seed": 2**70}, "must lie between 0 and 2**63 - 1"),
        ({"messages": [{"role": "user", "content": "fox " * 400}]}, "leaves no room for an answer"),
    ],
)
def test_requests_that_cannot_be_answered(server, changes, message):
    [*_, (name, text)] = events(server, **changes)
    assert name == "error"
    assert message in text
    assert "Traceback" not in text
    assert events(server)[-1][0] == "done"


def test_foreign_pages_are_refused(server):
    port = server.server_port
    body = json.dumps(REQUEST).encode()
    for headers in (
        {"Host": "example.com"},
        {"Host": f"example.com:{port}"},
        {"Host": "127.0.0.1"},
        {"Origin": "https://example.com"},
        {"Origin": f"http://127.0.0.1:{port + 1}"},
        {"Origin": "null"},
    ):
        assert request(server, "GET", "/models", **headers)[0] == 403
        assert request(server, "POST", "/answer", body, **headers)[0] == 403
    # What a form of another page can send without being asked.
    assert request(server, "POST", "/answer", body, Content_Type="text/plain")[0] == 403
    for name in ("127.0.0.1", "localhost"):
        own = {"Host": f"{name}:{port}", "Origin": f"http://{name}:{port}"}
        assert request(server, "POST", "/answer", body, **own)[0] == 200


def test_other_requests(server):
    assert request(server, "POST", "/models", b"{}")[0] == 404
    assert request(server, "POST", "/answer", b"", Content_Length="5000000")[0] == 413
    assert b"event: error" in request(server, "POST", "/answer", b"{")[2]


def test_a_reader_that_leaves_frees_the_model(server):
    """Its answer would be long, and another one is given at once."""
    body = json.dumps(REQUEST | {"max_new_tokens": 200}).encode()
    with socket.create_connection(("127.0.0.1", server.server_port)) as left:
        left.sendall(
            f"POST /answer HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\nContent-Length: "
            f"{len(body)}\r\nContent-Type: application/json\r\n\r\n".encode()
            + body
        )
        assert left.recv(100)
    assert events(server)[-1][0] == "done"


def test_a_port_that_is_in_use(server, folders):
    with pytest.raises(
        OSError, match=f"cannot listen on port {server.server_port} .*; give another"
    ):
        PageServer(folders[:1], server.server_port)
