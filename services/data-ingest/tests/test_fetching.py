"""Sources are fetched from object stores, by https and from Postgres, as far as the settings allow it."""

import asyncio
import base64
import hashlib
import json
import ssl
import urllib.request
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg
import obstore
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from obstore.store import S3Store

from mainspring_data_ingest.adapters.connections import Connections
from mainspring_data_ingest.adapters.fetching import AllowedFetcher
from mainspring_data_ingest.application.sources import Sources
from mainspring_data_ingest.domain.places import Place, Query, Remote
from mainspring_svckit.errors import InvalidInput, MainspringError, NotFound, PreconditionFailed, QuotaExceeded
from mainspring_testkit.aws_server import aws_server
from mainspring_testkit.fakes import FakeArtifacts
from mainspring_testkit.servers import PostgresServer

from .fakes import uploads


def allowed(**connections: Any) -> Sources:
    """Sources of which these connections may be fetched."""
    previewer: Any = None
    fetcher = AllowedFetcher(Connections.parse(json.dumps(connections)), 20)
    return Sources(previewer, fetcher, uploads(FakeArtifacts()))


async def fetched(sources: Sources, place: Place, project: str = "p") -> dict[str, tuple[str, bytes]]:
    """Files by name, with origin and bytes."""
    store: Any = sources._uploads._ports.files  # pyright: ignore[reportPrivateUsage] - what was stored.
    found: dict[str, tuple[str, bytes]] = {}
    async for artifact, origin in sources.fetch(project, place):
        found[artifact.filename] = (origin, await store.read(project, artifact))
    return found


async def refusal(sources: Sources, place: Place, project: str = "p") -> str:
    with pytest.raises(MainspringError) as caught:
        await fetched(sources, place, project)
    return caught.value.reason


@pytest.mark.parametrize(
    "place",
    [
        Remote("s3://bucket/x.jsonl"),
        Remote("https://example.org/x.jsonl"),
        Remote("file:///etc/passwd"),
        Remote("gopher://example.org/x"),
        Remote("nothing"),
        Query("warehouse", "SELECT 1"),
    ],
)
async def test_b8_nothing_may_be_fetched_unless_a_setting_allows_it(place: Place) -> None:
    assert await refusal(allowed(), place) == "SOURCE_NOT_ALLOWED"


async def test_a3_a_connection_serves_the_projects_that_it_names() -> None:
    sources = allowed(
        store={"kind": "objects", "url": "s3://bucket/a", "projects": ["p"]},
        web={"kind": "https", "hosts": ["*.example.org"], "projects": ["p"]},
        base={"kind": "postgres", "url": "postgresql://nowhere", "projects": ["p"]},
    )
    for place in (Remote("s3://bucket/a/x"), Remote("https://a.example.org/x"), Query("base", "SELECT 1")):
        assert await refusal(sources, place, "another") == "SOURCE_NOT_ALLOWED"
    for uri in ("s3://bucket/ab/x", "s3://bucket/a/../b/x", "https://example.org.evil.net/x", "https://example.org/x"):
        assert await refusal(sources, Remote(uri)) == "SOURCE_NOT_ALLOWED"


class Web:
    """A server on loopback."""

    def __init__(self, port: int) -> None:
        self.port, self.asked = port, list[str]()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@pytest.fixture
async def website() -> AsyncIterator[Web]:
    site: Any = None

    async def answer(request: web.Request) -> web.StreamResponse:
        site.asked.append(request.path)
        match request.path:
            case "/rows.jsonl":
                return web.Response(body=b'{"q": "1"}\n')
            case "/there":
                raise web.HTTPFound("/rows.jsonl")
            case "/inside":
                raise web.HTTPFound(f"http://localhost:{site.port}/rows.jsonl")
            case "/metadata":
                raise web.HTTPFound("http://169.254.169.254/latest/meta-data")
            case "/file":
                raise web.HTTPFound("file:///etc/passwd")
            case "/round":
                raise web.HTTPFound("/round")
            case "/short":
                response = web.StreamResponse(headers={"Content-Length": "1000"})
                await response.prepare(request)
                await response.write(b'{"q": "1"}\n')
                assert request.transport is not None
                request.transport.close()
                return response
            case "/endless":
                response = web.StreamResponse()
                await response.prepare(request)
                for _ in range(64):
                    await response.write(bytes(1 << 16))
                return response
            case _:
                raise web.HTTPNotFound

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site = Web(runner.addresses[0][1])
    yield site
    await runner.cleanup()


def own_host(**more: Any) -> Sources:
    return allowed(web={"kind": "https", "hosts": ["127.0.0.1"], "projects": ["*"], **more})


async def test_files_are_fetched_by_http_through_redirects(website: Web) -> None:
    sources = own_host(allow_private=True)
    assert await fetched(sources, Remote(website.url("/rows.jsonl?key=secret"))) == {
        "rows.jsonl": (website.url("/rows.jsonl"), b'{"q": "1"}\n')
    }
    assert [body for _, body in (await fetched(sources, Remote(website.url("/there")))).values()] == [b'{"q": "1"}\n']


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/inside", "SOURCE_NOT_ALLOWED"),
        ("/metadata", "SOURCE_NOT_ALLOWED"),
        ("/file", "SOURCE_NOT_ALLOWED"),
        ("/round", "SOURCE_REFUSED"),
        ("/nothing", "SOURCE_REFUSED"),
        ("/endless", "UPLOAD_TOO_LARGE"),
    ],
)
async def test_b8_redirects_inside_and_endless_answers_end(website: Web, path: str, reason: str) -> None:
    assert await refusal(own_host(allow_private=True), Remote(website.url(path))) == reason
    assert website.asked.count("/rows.jsonl") == 0


async def test_f15_an_answer_that_is_cut_short_is_not_kept(website: Web) -> None:
    sources = own_host(allow_private=True)
    assert await refusal(sources, Remote(website.url("/short"))) == "SOURCE_UNREACHABLE"
    store: Any = sources._uploads._ports.files  # pyright: ignore[reportPrivateUsage] - what was stored.
    assert not store.files


async def test_b8_an_allowed_host_with_an_address_inside_is_not_reached(website: Web) -> None:
    assert await refusal(own_host(), Remote(website.url("/rows.jsonl"))) == "URL_NOT_ALLOWED"
    local = allowed(web={"kind": "https", "hosts": ["localhost"], "projects": ["*"]})
    assert await refusal(local, Remote(f"https://localhost:{website.port}/rows.jsonl")) == "URL_NOT_ALLOWED"
    assert website.asked == []


@pytest.fixture
def bucket() -> Iterator[dict[str, Any]]:
    """A bucket of a real S3 server, and how it is reached."""
    with aws_server() as endpoint:
        with urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT")):
            pass
        yield {"endpoint": endpoint, "access_key_id": "a", "secret_access_key": "secret", "region": "us-east-1"}


def in_bucket(options: dict[str, Any]) -> Sources:
    store = {"kind": "objects", "url": "s3://bucket", "options": options, "allow_http": True, "projects": ["p"]}
    return allowed(store=store)


async def test_objects_are_fetched_from_an_s3_server(bucket: dict[str, Any]) -> None:
    options: Any = bucket
    store = S3Store("bucket", config=options, client_options={"allow_http": True})
    for name in ("a/1.jsonl", "a/2.jsonl", "a/3.csv", "b/4.jsonl"):
        await obstore.put_async(store, name, name.encode())
    sources = allowed(
        store={"kind": "objects", "url": "s3://bucket", "options": bucket, "allow_http": True, "projects": ["p"]}
    )
    one = await fetched(sources, Remote("s3://bucket/a/1.jsonl"))
    assert one == {"1.jsonl": ("s3://bucket/a/1.jsonl", b"a/1.jsonl")}
    assert sorted(await fetched(sources, Remote("s3://bucket/a/*.jsonl"))) == ["1.jsonl", "2.jsonl"]
    assert sorted(await fetched(sources, Remote("s3://bucket/a/"))) == ["1.jsonl", "2.jsonl", "3.csv"]
    for uri in ("s3://bucket/none.jsonl", "s3://bucket/none/*"):
        with pytest.raises(NotFound):
            await fetched(sources, Remote(uri))


async def test_a_store_that_refuses_is_told_from_one_that_does_not_answer(bucket: dict[str, Any]) -> None:
    gone = {"kind": "objects", "url": "s3://gone", "options": bucket, "allow_http": True, "projects": ["p"]}
    with pytest.raises(PreconditionFailed, match="404 NoSuchBucket; an operator can check"):
        await fetched(allowed(store=gone), Remote("s3://gone/*"))
    with pytest.raises(InvalidInput, match="no address of an object"):
        await fetched(in_bucket(bucket), Remote("s3://bucket/a//b"))
    # From here on the server wants to know who asks.
    url = f"{bucket['endpoint']}/moto-api/reset-auth"
    ask = urllib.request.Request(url, b"0", {"Content-Type": "text/plain"})
    (await asyncio.to_thread(urllib.request.urlopen, ask)).close()
    for uri in ("s3://bucket/1", "s3://bucket/*"):
        with pytest.raises(PreconditionFailed) as caught:
            await fetched(in_bucket(bucket), Remote(uri))
        assert caught.value.reason == "SOURCE_REFUSED"
        assert "MAINSPRING_SOURCE_CONNECTIONS" in caught.value.message
        assert not [secret for secret in ("secret", bucket["endpoint"]) if secret in caught.value.message]


async def test_b9_an_object_that_changes_while_it_is_read_is_refused(bucket: dict[str, Any]) -> None:
    options: Any = bucket
    store = S3Store("bucket", config=options, client_options={"allow_http": True})
    for name in ("1", "2"):
        await obstore.put_async(store, name, name.encode())
    sources = allowed(
        store={"kind": "objects", "url": "s3://bucket", "options": bucket, "allow_http": True, "projects": ["p"]}
    )
    with pytest.raises(PreconditionFailed) as caught:
        async for _ in sources.fetch("p", Remote("s3://bucket/*")):
            await obstore.put_async(store, "2", b"another")
    assert caught.value.reason == "SOURCE_CHANGED"


class Cloud:
    """As much of the interfaces of Google's and Azure's stores as fetching needs, on loopback; a file by its path."""

    def __init__(self) -> None:
        self.objects, self.signed, self.closed, self.port = dict[str, bytes](), set[str](), False, 0

    async def answer(self, request: web.Request) -> web.Response:
        self.signed.add(request.headers.get("Authorization", "").partition(" ")[0])
        if self.closed:
            raise web.HTTPForbidden
        path = unquote(request.raw_path.partition("?")[0])
        if "list-type" in request.query or request.query.get("comp") == "list":
            prefix = f"{path}/{request.query.get('prefix', '')}"
            found = {name[len(path) + 1 :]: data for name, data in self.objects.items() if name.startswith(prefix)}
            text = _google(found) if "list-type" in request.query else _azure(found)
            return web.Response(text=text, content_type="application/xml")
        if path not in self.objects:
            raise web.HTTPNotFound
        tag = _tag(self.objects[path])
        if request.headers.get("If-Match", tag).strip('"') != tag:
            raise web.HTTPPreconditionFailed
        return web.Response(body=self.objects[path], headers={"ETag": f'"{tag}"', "Last-Modified": _HTTP_TIME})


_HTTP_TIME, _TIME = "Thu, 01 Jan 2026 00:00:00 GMT", "2026-01-01T00:00:00.000Z"


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _google(found: dict[str, bytes]) -> str:
    entries = [
        f"<Contents><Key>{name}</Key><LastModified>{_TIME}</LastModified><Size>{len(data)}</Size>"
        f'<ETag>"{_tag(data)}"</ETag></Contents>'
        for name, data in found.items()
    ]
    return f"<ListBucketResult>{''.join(entries)}</ListBucketResult>"


def _azure(found: dict[str, bytes]) -> str:
    entries = [
        f"<Blob><Name>{name}</Name><Properties><Last-Modified>{_HTTP_TIME}</Last-Modified>"
        f"<Etag>{_tag(data)}</Etag><Content-Length>{len(data)}</Content-Length>"
        "<Content-Type>application/octet-stream</Content-Type></Properties></Blob>"
        for name, data in found.items()
    ]
    return f"<EnumerationResults><Blobs>{''.join(entries)}</Blobs><NextMarker /></EnumerationResults>"


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    made = Cloud()
    app = web.Application()
    app.router.add_get("/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


def in_cloud(cloud: Cloud, scheme: str) -> Sources:
    endpoint = f"http://127.0.0.1:{cloud.port}"
    options = {
        "gs": {"base_url": endpoint, "bearer_token": "secret"},
        "az": {"endpoint": endpoint, "account_name": "us", "account_key": base64.b64encode(b"secret").decode()},
    }[scheme]
    url = f"{scheme}://bucket"
    return allowed(store={"kind": "objects", "url": url, "options": options, "allow_http": True, "projects": ["p"]})


CLOUDS = pytest.mark.parametrize(("scheme", "signed"), [("gs", "Bearer"), ("az", "SharedKey")])


@CLOUDS
async def test_objects_are_fetched_from_google_s_and_azure_s_stores(cloud: Cloud, scheme: str, signed: str) -> None:
    for name in ("a/1.jsonl", "a/2.jsonl", "a/3.csv", "b/4.jsonl"):
        cloud.objects[f"/bucket/{name}"] = name.encode()
    sources, base = in_cloud(cloud, scheme), f"{scheme}://bucket"
    one = await fetched(sources, Remote(f"{base}/a/1.jsonl"))
    assert one == {"1.jsonl": (f"{base}/a/1.jsonl", b"a/1.jsonl")}
    assert sorted(await fetched(sources, Remote(f"{base}/a/*.jsonl"))) == ["1.jsonl", "2.jsonl"]
    assert sorted(await fetched(sources, Remote(f"{base}/a/"))) == ["1.jsonl", "2.jsonl", "3.csv"]
    for uri in (f"{base}/none.jsonl", f"{base}/none/*"):
        with pytest.raises(NotFound):
            await fetched(sources, Remote(uri))
    assert cloud.signed == {signed}
    assert await refusal(sources, Remote(f"{scheme}://another/a/1.jsonl")) == "SOURCE_NOT_ALLOWED"


@CLOUDS
async def test_b9_an_object_of_google_or_azure_that_changes_while_it_is_read_is_refused(
    cloud: Cloud, scheme: str, signed: str
) -> None:
    cloud.objects = {"/bucket/a/1": b"1", "/bucket/a/2": b"2"}
    with pytest.raises(PreconditionFailed) as caught:
        async for _ in in_cloud(cloud, scheme).fetch("p", Remote(f"{scheme}://bucket/a/*")):
            cloud.objects["/bucket/a/2"] = b"another"
    assert caught.value.reason == "SOURCE_CHANGED"


@CLOUDS
async def test_a_store_of_google_or_azure_that_lets_nobody_in_names_the_setting_and_no_secret(
    cloud: Cloud, scheme: str, signed: str
) -> None:
    cloud.closed = True
    for path in ("1", "*"):
        with pytest.raises(PreconditionFailed) as caught:
            await fetched(in_cloud(cloud, scheme), Remote(f"{scheme}://bucket/{path}"))
        assert caught.value.reason == "SOURCE_REFUSED"
        assert "MAINSPRING_SOURCE_CONNECTIONS" in caught.value.message
        assert not [told for told in ("secret", str(cloud.port)) if told in caught.value.message]


async def test_a_query_becomes_json_lines_and_cannot_write(postgres: PostgresServer) -> None:
    url = await postgres.new_database()
    connection: Any = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE talk AS SELECT n AS id, 'q' || n AS q FROM generate_series(1, 2500) n")
    await connection.close()
    sources = allowed(warehouse={"kind": "postgres", "url": url, "projects": ["p"]})
    found = await fetched(sources, Query("warehouse", "SELECT id, q, 1.5::numeric AS x FROM talk ORDER BY id"))
    origin, body = found["warehouse.jsonl"]
    rows = [json.loads(line) for line in body.splitlines()]
    assert (len(rows), rows[-1]) == (2500, {"id": 2500, "q": "q2500", "x": "1.5"})
    chat = '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'
    found = await fetched(sources, Query("warehouse", f"SELECT '{chat}'::jsonb AS messages"))
    assert json.loads(found["warehouse.jsonl"][1]) == {"messages": json.loads(chat)}
    assert "secret" not in origin
    assert url not in origin
    for sql in ("DELETE FROM talk", "SELECT 1; DELETE FROM talk", "SELECT nothing", "no SQL"):
        assert await refusal(sources, Query("warehouse", sql)) == "SOURCE_REFUSED"
    with pytest.raises(QuotaExceeded):
        await fetched(sources, Query("warehouse", "SELECT repeat('x', 1000) FROM generate_series(1, 5000)"))
    await refusal(sources, Query("another", "SELECT 1"))


async def test_b9_a_query_without_rows_or_with_a_column_twice_is_refused(postgres: PostgresServer) -> None:
    url = await postgres.new_database()
    sources = allowed(warehouse={"kind": "postgres", "url": url, "projects": ["p"]})
    assert await refusal(sources, Query("warehouse", "SELECT 1 AS q WHERE false")) == "SOURCE_HAS_NO_ROWS"
    assert await refusal(sources, Query("warehouse", "SELECT 1 AS q, 2 AS q")) == "SOURCE_REPEATS_COLUMN"


async def test_i11_a_database_that_lets_nobody_in_is_told_without_what_the_settings_say(
    postgres: PostgresServer,
) -> None:
    url = urlsplit(await postgres.new_database())
    urls = {
        "stranger": url._replace(netloc=url.netloc.replace(f":{url.password}@", ":wrong@")),
        "nowhere": url._replace(path="/there-is-none"),
    }
    for name, wrong in urls.items():
        sources = allowed(**{name: {"kind": "postgres", "url": wrong.geturl(), "projects": ["p"]}})
        with pytest.raises(PreconditionFailed, match=f"the database '{name}' does not let us in") as caught:
            await fetched(sources, Query(name, "SELECT 1"))
        told = caught.value.message
        assert not [word for word in (url.username or "", "there-is-none", "query") if word in told]


@pytest.fixture
async def private_site(tmp_path: Path) -> AsyncIterator[str]:
    """Address of a server whose certificate nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    begin = datetime.now(UTC) - timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "site.pem"
    form, no_password = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    encoding = serialization.Encoding.PEM
    pem.write_bytes(key.private_bytes(encoding, form, no_password) + certificate.public_bytes(encoding))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    runner = web.AppRunner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://localhost:{runner.addresses[0][1]}/rows.jsonl"
    await runner.cleanup()


async def test_f15_a_certificate_that_nobody_vouches_for_is_refused(private_site: str) -> None:
    sources = allowed(web={"kind": "https", "hosts": ["localhost"], "projects": ["*"], "allow_private": True})
    with pytest.raises(PreconditionFailed, match="no certificate that is trusted"):
        await fetched(sources, Remote(private_site))


def test_settings_with_unknown_fields_are_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="extra"):
        Connections.parse('{"a": {"kind": "postgres", "url": "x", "projects": ["p"], "password": "y"}}')
    with pytest.raises(InvalidInput):
        Connections.parse("").database("p", "a")
