"""The demo's caller: somebody's program that talks to the gateway over HTTP and has nothing of ours installed."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from mainspring_client.demo.task import MAX_OUTPUT_TOKENS, NAME
from mainspring_svckit.errors import Unavailable

_TIMEOUT_S = 120.0
_ATTEMPTS = 30


@dataclass(frozen=True)
class Completion:
    """An answer that came through the gateway.

    Attributes:
        id: What feedback names.
        text: The answer.
        model_version: Which version gave it.
        citations: Titles of the documents it was given.
        seconds: From the request to the whole answer.
    """

    id: str
    text: str
    model_version: str
    citations: tuple[str, ...]
    seconds: float


class Gateway:
    """OpenAI's API at an address, in one project."""

    def __init__(self, address: str, token: str, project: str) -> None:
        self._address = address
        self._headers = {
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
            "openai-project": project,
        }

    async def ask(self, question: str, *, collection: str = "") -> Completion:
        """Asks the demo's model; with passages of a collection when that is named."""
        body: dict[str, Any] = {
            "model": NAME,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": MAX_OUTPUT_TOKENS,
        }
        if collection:
            body["context"] = {"collection": collection, "top_k": 2}
        started = time.monotonic()
        answer = await self.call("POST", "/chat/completions", body)
        ours = answer["mainspring"]
        return Completion(
            id=answer["id"],
            text=answer["choices"][0]["message"]["content"],
            model_version=ours["model_version"],
            citations=tuple(citation["title"] for citation in ours["citations"]),
            seconds=time.monotonic() - started,
        )

    async def stream(self, question: str) -> tuple[str, float]:
        """Asks with `stream`; returns the text and the seconds until its first piece."""
        body = {"model": NAME, "messages": [{"role": "user", "content": question}], "temperature": 0, "stream": True}
        return await asyncio.to_thread(self._read_stream, {**body, "max_tokens": MAX_OUTPUT_TOKENS})

    async def judge(self, target: str, name: str, value: bool | str) -> None:
        """Says what one thinks of an answer."""
        body = {"target_id": target, "name": name, "value": value}
        await self.call("POST", "/feedback", body, {"idempotency-key": str(uuid.uuid4())})

    async def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """One request; repeated for as long as the gateway says that a repeat may help.

        Raises:
            Unavailable: GATEWAY_REFUSED, with what the gateway said.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return await asyncio.to_thread(self._once, method, path, body, headers or {})
            except HTTPError as err:
                said = err.read().decode(errors="replace")[:500]
                if err.headers.get("x-should-retry") != "true" or attempt == _ATTEMPTS - 1:
                    raise Unavailable("GATEWAY_REFUSED", f"{method} /v1{path}: {err.code} {said}") from err
                await asyncio.sleep(min(float(err.headers.get("retry-after") or 0.5), 5.0))
            except URLError as err:
                raise Unavailable("GATEWAY_REFUSED", f"{method} /v1{path}: {err.reason}") from err
        raise AssertionError("the last attempt returns or raises")

    def _once(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> dict[str, Any]:
        with self._open(method, path, body, headers) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    def _open(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> HTTPResponse:
        data = json.dumps(body).encode() if body is not None else None
        # The address is the stack's own, which is HTTP.
        request = Request(f"{self._address}/v1{path}", data, {**self._headers, **headers}, method=method)  # noqa: S310
        opened: HTTPResponse = urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310
        return opened

    def _read_stream(self, body: dict[str, Any]) -> tuple[str, float]:
        started, first_s, text, ended = time.monotonic(), 0.0, "", False
        with self._open("POST", "/chat/completions", body, {}) as response:
            for line in response:
                event = line.decode().strip().removeprefix("data: ")
                if event == "[DONE]":
                    ended = True
                elif event:
                    choices = json.loads(event).get("choices", [])
                    piece = choices[0]["delta"].get("content", "") if choices else ""
                    if piece and not text:
                        first_s = time.monotonic() - started
                    text += piece
        if not ended:
            raise Unavailable("STREAM_CUT_SHORT", "the stream of an answer ended before the answer was whole")
        return text, first_s
