"""The page in a browser: two models answer, an answer is stopped, and errors are shown."""

import threading

import pytest
from chat_models import chat_tokenizer, save_chat_model
from tiny_tokenizers import make_constant_model

from mobilellm.chat.web import PageServer
from mobilellm.checkpoint import save_model

headless_chromium = pytest.importorskip("headless_chromium", reason="needs Unix")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(headless_chromium.find_chromium() is None, reason="needs chromium"),
]
IDLE = "document.querySelector('button.main').textContent === 'Send'"
TEXTS = "[...document.querySelectorAll('.text')].map(one => one.textContent)"
NUMBERS = "[...document.querySelectorAll('.numbers')].map(one => one.textContent)"


@pytest.fixture
def server(tmp_path):
    """A model that writes `x` for ever, and one of random text."""
    tokenizer = chat_tokenizer(tmp_path / "t")
    [token] = tokenizer.encode("x")
    model = make_constant_model(
        token, vocab_size=300, max_position_embeddings=20_000, bos_token_id=1, eos_token_id=2
    )
    save_model(model, tmp_path / "constant", tokenizer.path)
    folders = [tmp_path / "constant", save_chat_model(tmp_path / "random", context=512)]
    with PageServer(folders, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def write(page, text, most):
    page.value(f"document.getElementById('most').value = {most}")
    page.value("document.getElementById('message').focus()")
    page.call("Input.insertText", text=text)


def test_two_models_answer_on_the_page(server, tmp_path):
    url = f"http://127.0.0.1:{server.server_port}/"
    with headless_chromium.Page(url, tmp_path / "browser", (1200, 800)) as page:
        page.wait_for("document.querySelectorAll('.model').length === 2")
        assert page.value("[...document.querySelectorAll('h2')].map(one => one.textContent)") == [
            "constant", "random"
        ]  # fmt: skip
        write(page, "the <b>fox</b>", 6)
        page.press_enter()
        page.wait_for(f"{IDLE} && document.querySelectorAll('.text').length === 2")
        first, second = page.value(TEXTS)
        assert first == "xxxxxx"
        assert second
        assert all(" tokens · " in text for text in page.value(NUMBERS))
        users = page.value("[...document.querySelectorAll('.user')].map(one => one.textContent)")
        assert users == ["the <b>fox</b>"] * 2
        # A long answer is stopped by the button, and the next one follows.
        write(page, "again", 15_000)
        page.value("document.querySelector('button.main').click()")
        page.wait_for("document.querySelectorAll('.text')[1].textContent.startsWith('xxxxxxxx')")
        page.value("document.querySelector('button.main').click()")
        page.wait_for(IDLE)
        assert page.value(NUMBERS)[1].endswith("· stopped")
        write(page, "and", 3)
        page.press_enter()
        page.wait_for(f"{IDLE} && document.querySelectorAll('.text').length === 6")
        assert page.value(TEXTS)[2] == "xxx"
        # A message that does not fit is an error at the model of the small context only.
        write(page, "dog " * 300, 3)
        page.press_enter()
        page.wait_for(f"{IDLE} && document.querySelectorAll('.error').length === 1")
        assert "leaves no room" in page.value("document.querySelector('.error').textContent")
        page.value("document.getElementById('reset').click()")
        assert page.value(TEXTS) == []
        server.shutdown()
        server.server_close()
        write(page, "hi", 3)
        page.press_enter()
        page.wait_for(f"{IDLE} && document.querySelectorAll('.error').length === 2")
        assert "The server cannot be reached" in page.value("document.body.innerText")
