"""A key management service for tests: moto's, which signs with real keys and lets people in by real policies."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from mainspring_testkit.aws_server import PACKAGES


class Kms:
    """Its administrator; everybody may do everything until `check_rights`."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        made = self._iam("CreateUser", UserName="registry") + self._iam("CreateAccessKey", UserName="registry")
        self._credentials = re.findall(r"<(?:AccessKeyId|SecretAccessKey)>(.+?)<", made)

    def new_key(self) -> tuple[str, str]:
        """Id and public half (PEM) of a new P-256 key."""
        key_id = self._kms("CreateKey", KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
        der = base64.b64decode(self._kms("GetPublicKey", KeyId=key_id)["PublicKey"])
        return key_id, load_der_public_key(der).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def check_rights(self, *, after: int) -> None:
        """From so many calls on only those come in whom a policy lets in; the registry's user has none."""
        self._post("/moto-api/reset-auth", str(after).encode(), {"Content-Type": "text/plain"})

    def client_env(self, endpoint: str) -> dict[str, str]:
        """What a process needs to be a client at an endpoint."""
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        region = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1", "AWS_EC2_METADATA_DISABLED": "true"}
        credentials = dict(zip(names, self._credentials, strict=True))
        return {"PYTHONPATH": str(PACKAGES), "AWS_ENDPOINT_URL": endpoint, **region, **credentials}

    def _kms(self, action: str, **body: str) -> Any:
        headers = {"X-Amz-Target": f"TrentService.{action}", "Content-Type": "application/x-amz-json-1.1"}
        return json.loads(self._post("/", json.dumps(body).encode(), headers | _signed_for("kms")) or "{}")

    def _iam(self, action: str, **fields: str) -> str:
        body = urlencode({"Action": action, "Version": "2010-05-08", **fields})
        headers = {"Content-Type": "application/x-www-form-urlencoded", **_signed_for("iam")}
        return self._post("/", body.encode(), headers)

    def _post(self, path: str, body: bytes, headers: dict[str, str]) -> str:
        with urlopen(Request(self.endpoint + path, body, headers, method="POST"), timeout=30) as answer:
            return answer.read().decode()


def _signed_for(service: str) -> dict[str, str]:
    credential = f"Credential=admin/20260101/us-east-1/{service}/aws4_request"
    return {"Authorization": f"AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0"}


class Line:
    """The network between a service and another one; it can be cut and joined again."""

    def __init__(self, target: str) -> None:
        self._host, port = target.removeprefix("http://").split(":")
        self._target_port, self._port = int(port), 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def join(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._open):
                writer.transport.abort()
            self._server = None

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._host, self._target_port)
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
        self._open.discard(writer)
