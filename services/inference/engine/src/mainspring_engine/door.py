"""Asks llama.cpp's HTTP door what xllamacpp has no call for."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from typing import Any

_TIMEOUT_S = 30.0


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, name: str) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._name = name

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(self._name)


@dataclass(frozen=True)
class Door:
    """Where llama.cpp listens, and the key without which it says nothing."""

    name: str
    key: str

    def text_put_before_prompts(self) -> str:
        """Text of the token that the tokenizer puts before every prompt; empty when it puts none.

        Raises:
            OSError: The door does not answer.
        """
        return str(self._ask("GET", "/props", None)["bos_token"]) if self.tokens("", special=True) else ""

    def tokens(self, text: str, *, special: bool) -> list[int]:
        """The ids of a text's tokens; with `special` also what the tokenizer puts before prompts.

        Raises:
            OSError: The door does not answer.
        """
        wish = {"content": text, "add_special": special, "parse_special": special}
        return [int(token) for token in self._ask("POST", "/tokenize", wish)["tokens"]]

    def _ask(self, method: str, url: str, body: Any) -> Any:
        connection = _SocketConnection(self.name)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            connection.request(method, url, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            data = answer.read()
        except http.client.HTTPException as err:
            raise OSError(f"{url} answered nothing that is HTTP") from err
        finally:
            connection.close()
        if answer.status != 200:
            raise OSError(f"{url} answered {answer.status}")
        return json.loads(data)
