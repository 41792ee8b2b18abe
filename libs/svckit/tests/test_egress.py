"""Requests to addresses that callers name reach public hosts only."""

import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from mainspring_svckit.egress import AddressRefused, PublicResolver, check_url, http_session, is_public
from mainspring_svckit.errors import InvalidInput


class Names(AbstractResolver):
    """A name server that gives the next answer at each look-up."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers, self.asked = list(answers), 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in answer
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "data:text/plain,x",
        "https://user:secret@example.com/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://0x7f.1/",
        "https://2130706433/",
        "https://017700000001/",
        "https://[::1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[::ffff:a9fe:a9fe]/",
        "https://[fd00::1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[fe80::1%25eth0]/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://100.64.0.1/",
        "https://224.0.0.1/",
        "https://0.0.0.0/",
        "https:///path",
        "https://example.com:0/",
        "https://example.com:99999/",
        "https://exa mple.com/",
        "https://example.com\\@127.0.0.1/",
        "https://example.com/#fragment",
        "https://example.com/\nx",
    ],
)
def test_b8_urls_that_lead_inside_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_url(url, allow_private=False)
    assert caught.value.reason == "URL_NOT_ALLOWED"
    assert caught.value.violations[0].field == "url"


@pytest.mark.parametrize("url", ["https://example.com/a?b=c", "https://1.1.1.1:8443/", "https://[2606:4700::1111]/x"])
def test_public_urls_may_be_tried(url: str) -> None:
    assert check_url(url, allow_private=False) == url


@pytest.mark.parametrize("address", ["127.0.0.1", "192.168.1.1", "::1", "fd00::1", "::ffff:10.0.0.1", "2002:7f00:1::"])
def test_b8_addresses_inside_are_not_public(address: str) -> None:
    assert not is_public(address)


async def test_b8_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    resolver = PublicResolver(Names(["1.1.1.1", "10.0.0.7"]))
    with pytest.raises(AddressRefused, match=r"10\.0\.0\.7"):
        await resolver.resolve("example.com", 443)


@pytest.fixture
async def counted() -> AsyncIterator[tuple[int, list[str]]]:
    """A port on which a small HTTP server listens, and the request lines that came."""
    lines = list[str]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append((await reader.readline()).decode().strip())
        writer.write(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], lines


async def test_b8_a_name_that_changes_its_address_reaches_nothing_inside(counted: tuple[int, list[str]]) -> None:
    port, lines = counted
    names = Names(["127.0.0.1"])
    async with http_session(allow_private=False, timeout_s=5, resolver=names) as session:
        with pytest.raises(aiohttp.ClientConnectorDNSError) as caught:
            await session.get(f"http://rebinding.example:{port}/", allow_redirects=False)
    assert isinstance(caught.value.os_error, AddressRefused)
    assert lines == []


async def test_b8_each_connection_resolves_once_and_goes_where_it_was_checked(counted: tuple[int, list[str]]) -> None:
    port, lines = counted
    names = Names(["127.0.0.1"], ["10.255.255.1"])
    async with (
        http_session(allow_private=True, timeout_s=5, resolver=names) as session,
        session.get(f"http://mine.example:{port}/x", allow_redirects=False) as answer,
    ):
        assert answer.status == 302
    assert lines == ["GET /x HTTP/1.1"]
    assert names.asked == 1
