"""HTTP to addresses that callers name: only to public hosts, whatever their names resolve to.

A name is resolved once for each connection, every address it has is checked, and the connection goes to one of those
that were checked, so a name server cannot answer otherwise the second time. Redirects are for the caller to follow,
with a check of each: ask with `allow_redirects=False` (faults.md B8).
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from mainspring_svckit.errors import FieldViolation, InvalidInput

_MAPPED = ipaddress.ip_network("64:ff9b::/96")


class AddressRefused(OSError):
    """The host has an address that callers may not reach."""


def check_url(url: str, *, allow_private: bool, field: str = "url") -> str:
    """The URL, if one may try to reach it: `https`, a host, no user information, no fragment.

    Args:
        url: What a caller wrote.
        allow_private: Also takes `http` and addresses that are not public, for one's own machines.
        field: What the violation names.

    Raises:
        InvalidInput: URL_NOT_ALLOWED.
    """
    schemes = ("https", "http") if allow_private else ("https",)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as err:
        raise _not_allowed(field, f"is no URL ({err})") from err
    if any(ord(character) <= 32 or ord(character) == 127 for character in url) or "\\" in url:
        raise _not_allowed(field, "holds spaces, control characters or backslashes")
    if parts.scheme not in schemes:
        raise _not_allowed(field, f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if "@" in parts.netloc:
        raise _not_allowed(field, "holds user information; send no passwords in URLs")
    if not host or port == 0 or parts.fragment:
        raise _not_allowed(field, "needs a host, and no fragment")
    address = _literal(host)
    if address is not None and not allow_private and not is_public(address):
        raise _not_allowed(field, f"names {address}, which is not a public address")
    return url


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet: not loopback, private, link-local or multicast, nor mapped to one."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in _MAPPED:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


class PublicResolver(AbstractResolver):
    """Resolves names, and refuses those of which one address is not public."""

    def __init__(self, inner: AbstractResolver | None = None, *, allow_private: bool = False) -> None:
        self._inner, self._allow_private = inner or ThreadedResolver(), allow_private

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a host.

        Raises:
            AddressRefused: One of them is not public.
            OSError: The name has no address.
        """
        found = await self._inner.resolve(host, port, family)
        if not self._allow_private:
            for one in found:
                if not is_public(one["host"]):
                    raise AddressRefused(f"{host} has the address {one['host']}, which is not public")
        return found

    async def close(self) -> None:
        """Ends what resolves."""
        await self._inner.close()


def http_session(
    *, allow_private: bool, timeout_s: float, resolver: AbstractResolver | None = None
) -> aiohttp.ClientSession:
    """A session that connects to public hosts only.

    Check each URL with `check_url` as well: a literal address asks no resolver.

    Args:
        allow_private: Also connects to addresses that are not public.
        timeout_s: Longest request, from the first look-up to the last byte.
        resolver: Instead of the system's.
    """
    connector = aiohttp.TCPConnector(
        resolver=PublicResolver(resolver, allow_private=allow_private), use_dns_cache=False, force_close=True, limit=32
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(10.0, timeout_s)),
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        max_line_size=8190,
        max_field_size=8190,
    )


def _literal(host: str) -> str | None:
    """The address that a host part is by itself, also in the shorthand that C libraries take (`127.1`, `0x7f.1`)."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    except OSError:
        return None


def _not_allowed(field: str, description: str) -> InvalidInput:
    violation = FieldViolation(field, description)
    return InvalidInput(f"{field}: {description}", reason="URL_NOT_ALLOWED", violations=[violation])
