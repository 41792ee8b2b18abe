"""Fetches files from object stores, by https, and from Postgres."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import aiohttp
import asyncpg
import obstore
import orjson
from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError

from mainspring_data_ingest.adapters.connections import Connections, ObjectStore, PostgresDatabase
from mainspring_data_ingest.adapters.feedback import FeedbackAnswers
from mainspring_data_ingest.application.source_ports import RemoteFile
from mainspring_data_ingest.domain.places import Judged, Place, Query, Remote
from mainspring_svckit.egress import AddressRefused, check_url, http_session
from mainspring_svckit.errors import InvalidInput, MainspringError, NotFound, PreconditionFailed, Unavailable

MAX_FILES = 1_000
MAX_REDIRECTS = 5
_CHUNK = 1 << 20
_ROWS = 1_000
_SCHEMES = ("s3", "gs", "az")
# What a store answers is quoted no further than this: no address of ours, no text of its choice.
_STATUS, _CODE = re.compile(r"status code: ([45]\d\d)"), re.compile(r"<Code>(\w{1,64})</Code>")
_OPERATOR = "an operator can check its connection in the setting MAINSPRING_SOURCE_CONNECTIONS of data-ingest"


class AllowedFetcher:
    """`Fetcher` of what the settings allow."""

    def __init__(self, connections: Connections, timeout_s: float, feedback: FeedbackAnswers | None = None) -> None:
        """Takes what is allowed, the longest time for one file, and who has judged answers."""
        self._feedback = feedback
        self._connections, self._timeout_s = connections, timeout_s

    async def files(self, project: str, place: Place) -> AsyncIterator[RemoteFile]:
        """See `Fetcher`."""
        if isinstance(place, Query):
            database = self._connections.database(project, place.connection)
            chunks = _rows(place.connection, database, place.sql, self._timeout_s)
            yield RemoteFile(f"{place.connection}.jsonl", f"query of {place.connection}: {place.sql[:1000]}", chunks)
            return
        if isinstance(place, Judged):
            if self._feedback is None:
                message = "judged answers need MAINSPRING_FEEDBACK_ADDRESS of data-ingest; set it"
                raise PreconditionFailed("FEEDBACK_NOT_CONFIGURED", message)
            yield RemoteFile("judged-answers.jsonl", place.origin, self._feedback.lines(project, place))
            return
        scheme = place.uri.partition("://")[0]
        if scheme in _SCHEMES:
            async for file in _objects(self._connections.objects(project, place.uri), place.uri):
                yield file
        elif scheme in {"https", "http"}:
            yield await self._page(project, place)
        else:
            # Without the URI, which may hold a password.
            message = "only s3://, gs://, az:// and https:// are fetched; copy it to one of these, or upload it"
            raise InvalidInput(message, reason="SOURCE_NOT_ALLOWED")

    async def _page(self, project: str, place: Remote) -> RemoteFile:
        self._check(project, place.uri)
        name = PurePosixPath(unquote(urlsplit(place.uri).path)).name or "page.html"
        origin = place.uri.partition("?")[0]
        return RemoteFile(name[:200], origin, self._download(project, place.uri))

    def _check(self, project: str, url: str) -> bool:
        """Whether private addresses may be reached for a URL; raises when the URL may not be tried at all."""
        host = (urlsplit(url).hostname or "").lower()
        allow_private = self._connections.web(project, host).allow_private
        check_url(url, allow_private=allow_private, field="uri")
        return allow_private

    async def _download(self, project: str, url: str) -> AsyncIterator[bytes]:
        """The body, after redirects, each of which is checked as the URL was."""
        for _ in range(MAX_REDIRECTS + 1):
            allow_private = self._check(project, url)
            try:
                async with (
                    http_session(allow_private=allow_private, timeout_s=self._timeout_s) as session,
                    session.get(url, allow_redirects=False) as response,
                ):
                    if response.status in {301, 302, 303, 307, 308} and "location" in response.headers:
                        url = urljoin(url, response.headers["location"])
                        continue
                    if response.status != 200:
                        message = f"{urlsplit(url).hostname} answered {response.status}; check the address"
                        raise PreconditionFailed("SOURCE_REFUSED", message)
                    async for chunk in response.content.iter_chunked(_CHUNK):
                        yield chunk
                    return
            except (aiohttp.ClientError, TimeoutError, OSError) as err:
                raise _unreachable(err, url) from err
        raise PreconditionFailed("SOURCE_REFUSED", f"more than {MAX_REDIRECTS} redirects; name the last address")


def _unreachable(err: Exception, url: str) -> MainspringError:
    inner, host = getattr(err, "os_error", err), urlsplit(url).hostname
    if isinstance(inner, AddressRefused):
        return InvalidInput(f"uri: {inner}", reason="URL_NOT_ALLOWED")
    if isinstance(err, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError)):
        message = f"{host} has no certificate that is trusted for it; mend that, or name its authority in SSL_CERT_FILE"
        return PreconditionFailed("SOURCE_REFUSED", message)
    return Unavailable("SOURCE_UNREACHABLE", f"{host} could not be read to the end ({type(err).__name__}); try again")


async def _objects(connection: ObjectStore, uri: str) -> AsyncIterator[RemoteFile]:
    base = connection.url.rstrip("/")
    path = uri.removeprefix(base).lstrip("/")
    store = connection.open()
    with _store_errors(uri):
        found = await _listed(store, path)
    if not found:
        raise NotFound("Object", uri)
    for entry in found:
        yield RemoteFile(PurePosixPath(entry["path"]).name[:200], f"{base}/{entry['path']}", _object(store, entry, uri))


async def _listed(store: Any, path: str) -> list[Any]:
    """The objects that a path names, by name."""
    plain = path.partition("*")[0]
    if plain == path and path and not path.endswith("/"):
        try:
            return [await obstore.head_async(store, path)]
        except FileNotFoundError:
            return []
    found: list[Any] = []
    async for batch in obstore.list(store, prefix=plain.rpartition("/")[0] or None):
        found += [e for e in batch if plain == path or fnmatchcase(e["path"], path)]
        if len(found) > MAX_FILES:
            raise InvalidInput(f"{path} names more than {MAX_FILES} objects; name fewer", reason="TOO_MANY_FILES")
    return sorted(found, key=lambda entry: entry["path"])


async def _object(store: Any, entry: Any, uri: str) -> AsyncIterator[bytes]:
    """The bytes of an object as it was listed."""
    options: Any = {"if_match": entry["e_tag"]} if entry.get("e_tag") else {}
    size = 0
    with _store_errors(uri):
        got = await obstore.get_async(store, entry["path"], options=options)
        async for chunk in got.stream(min_chunk_size=_CHUNK):
            size += len(chunk)
            yield bytes(chunk)
    if size != entry["size"]:
        raise PreconditionFailed("SOURCE_CHANGED", f"{entry['path']} changed while it was read; fetch it again")


@contextmanager
def _store_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as err:
        raise NotFound("Object", uri) from err
    except ValueError as err:
        raise InvalidInput(f"uri: {uri!r} is no address of an object: no empty part, no '..'") from err
    except PreconditionError as err:
        raise PreconditionFailed("SOURCE_CHANGED", f"{uri} changed while it was read; fetch it again") from err
    except (PermissionDeniedError, UnauthenticatedError) as err:
        raise PreconditionFailed("SOURCE_REFUSED", f"the object store does not let us read {uri}; {_OPERATOR}") from err
    except BaseError as err:
        status, code = _STATUS.search(str(err)), _CODE.search(str(err))
        if status is not None and status[1].startswith("4"):
            said = f"{status[1]} {code[1] if code else ''}".strip()
            raise PreconditionFailed("SOURCE_REFUSED", f"the store of {uri} answered {said}; {_OPERATOR}") from err
        message = f"the store of {uri} did not answer; try again, and if that does not help, {_OPERATOR}"
        raise Unavailable("SOURCE_UNREACHABLE", message) from err


async def _rows(name: str, database: PostgresDatabase, sql: str, timeout_s: float) -> AsyncIterator[bytes]:
    """The rows of a query as JSON Lines, by a cursor in a read-only transaction."""
    try:
        async with asyncio.timeout(timeout_s):
            connection = await _connected(name, database)
            try:
                async with connection.transaction(readonly=True):
                    await connection.execute(f"SET LOCAL statement_timeout = {int(timeout_s * 1000)}")
                    async for lines in _lines(await connection.prepare(sql)):
                        yield lines
            finally:
                connection.terminate()
    except (asyncpg.PostgresConnectionError, OSError, TimeoutError) as err:
        message = f"the database {name!r} did not answer to the end ({type(err).__name__}); try again"
        raise Unavailable("SOURCE_UNREACHABLE", message) from err
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as err:
        # What Postgres says of a query quotes the query only.
        raise PreconditionFailed("SOURCE_REFUSED", f"the query failed: {str(err)[:500]}") from err


async def _lines(query: Any) -> AsyncIterator[bytes]:
    """Up to 1,000 rows of a prepared query at a time."""
    columns = [attribute.name for attribute in query.get_attributes()]
    if repeated := sorted({column for column in columns if columns.count(column) > 1}):
        message = f"the query has the column {repeated[0]!r} twice; name them apart with AS"
        raise InvalidInput(message, reason="SOURCE_REPEATS_COLUMN")
    waiting, sent = list[bytes](), False
    async for row in query.cursor(prefetch=_ROWS):
        waiting.append(orjson.dumps(dict(row), default=str) + b"\n")
        if len(waiting) >= _ROWS:
            yield b"".join(waiting)
            waiting, sent = [], True
    if waiting:
        yield b"".join(waiting)
    elif not sent:
        raise InvalidInput("the query has no rows; widen it", reason="SOURCE_HAS_NO_ROWS")


async def _connected(name: str, database: PostgresDatabase) -> Any:
    """A connection; what Postgres says of a failed one names users and databases of the settings, so it is not told."""
    try:
        connection: Any = await asyncpg.connect(database.url.get_secret_value(), timeout=10)
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as err:
        message = f"the database {name!r} does not let us in ({type(err).__name__}); {_OPERATOR}"
        raise PreconditionFailed("SOURCE_REFUSED", message) from err
    # Chats are often kept so. Its text has no line breaks and goes into the line as it is.
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=str, decoder=orjson.Fragment)
    return connection
