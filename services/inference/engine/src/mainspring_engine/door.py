"""Asks llama.cpp's HTTP door what xllamacpp has no call for; used once, while a model is loaded."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

_TIMEOUT_S = 30.0


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT_S)
        self.sock.connect(str(self._path))


def text_put_before_prompts(path: Path, key: str) -> str:
    """Text of the token that the tokenizer puts before every prompt; empty when it puts none.

    Raises:
        OSError: The door does not answer.
    """
    if not _ask(path, key, "POST", "/tokenize", {"content": "", "add_special": True})["tokens"]:
        return ""
    return str(_ask(path, key, "GET", "/props", None)["bos_token"])


def _ask(path: Path, key: str, method: str, url: str, body: Any) -> Any:
    connection = _SocketConnection(path)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        connection.request(method, url, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        data = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"{url} answered {answer.status}")
    return json.loads(data)
