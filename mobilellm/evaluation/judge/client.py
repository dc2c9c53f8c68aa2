"""Asks a model behind an OpenAI-compatible URL, such as a local server or a service."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

TRIES = 4
_TRY_AGAIN = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, kw_only=True)
class ChatClient:
    """A model that answers `POST <url>/chat/completions`.

    Raises:
        ValueError: the URL is not one of http or https.
    """

    url: str
    """Address of the interface, which mostly ends in `/v1`."""
    model: str
    """Name of the model, as the server knows it."""
    key: str | None = field(default=None, repr=False)
    """Sent as bearer token; None: none is sent."""
    max_tokens: int = 512
    timeout_seconds: float = 120.0
    wait_seconds: float = 1.0
    """Before the second try; twice as long before each further one."""

    def __post_init__(self) -> None:
        """Check the URL."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(
                f"--url {self.url} is not an address such as http://localhost:8000/v1; correct it"
            )

    def check_reachable(self) -> None:
        """Check, before any work, that a server answers at the address, whatever it answers.

        Raises:
            ValueError: the host is unknown, refuses the connection, or does not answer in time.
        """
        request = self._request("models")
        try:
            urllib.request.urlopen(request, timeout=self.timeout_seconds).close()
        except urllib.error.HTTPError:
            return  # not every server lists its models
        except (OSError, http.client.HTTPException) as error:
            raise ValueError(
                f"--url {self.url} cannot be reached ({_reason(error)}); start the server, or "
                "correct the address"
            ) from None

    def ask(self, messages: Sequence[dict[str, str]]) -> str:
        """The reply to a conversation, without randomness if the server allows that.

        Servers that are busy, or do not answer, are asked again a few times.

        Raises:
            ValueError: the server refuses the request, does not answer, or answers something else.
        """
        body = {
            "model": self.model, "messages": list(messages), "temperature": 0,
            "max_tokens": self.max_tokens,
        }  # fmt: skip
        wait = self.wait_seconds
        for number in range(1, TRIES + 1):
            try:
                return _reply(self._post(body), self.url)
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.reason}: {_shown(error.read())}"
                if error.code not in _TRY_AGAIN:
                    raise ValueError(
                        f"{self.url} refuses the request ({reason}); check --judge, --url and "
                        "--key-variable"
                    ) from None
            except (OSError, http.client.HTTPException) as error:
                reason = _reason(error)
            if number < TRIES:
                time.sleep(wait)
                wait *= 2
        raise ValueError(
            f"{self.url} did not answer in {TRIES} tries ({reason}); check that the server runs, "
            "and run the same command again"
        )

    def _post(self, body: dict[str, Any]) -> bytes:
        request = self._request("chat/completions", json.dumps(body, allow_nan=False).encode())
        with urllib.request.urlopen(request, timeout=self.timeout_seconds) as response:
            return response.read()

    def _request(self, path: str, body: bytes | None = None) -> urllib.request.Request:
        """A request for `<url>/<path>`: POST with a body of JSON, otherwise GET."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        return urllib.request.Request(f"{self.url.rstrip('/')}/{path}", data=body, headers=headers)


def _reply(content: bytes, url: str) -> str:
    """The text of a response.

    Raises:
        ValueError: it has none.
    """
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        text = None
    if not isinstance(text, str):
        raise ValueError(
            f"{url} did not answer as an OpenAI-compatible server does ({_shown(content)}); check "
            "the address, which mostly ends in /v1"
        )
    return text


def _reason(error: Exception) -> str:
    """Why a server did not answer."""
    return str(getattr(error, "reason", error)) or type(error).__name__


def _shown(content: bytes, most: int = 200) -> str:
    return " ".join(content[: 4 * most].decode(errors="replace").split())[:most]
