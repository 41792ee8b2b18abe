"""Formats of sources: each read whole, and what is broken, packed or made to harm."""

import errno
import gzip
import io
import json
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import docx
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mainspring_data_ingest.adapters import archive, json_reader, lines, unpacking
from mainspring_data_ingest.adapters.documents import reader as documents
from mainspring_data_ingest.adapters.jobs import SourceFile
from mainspring_data_ingest.adapters.passages import passages
from mainspring_data_ingest.adapters.reading import open_source
from mainspring_data_ingest.adapters.recognition import recognised
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.records import Record
from mainspring_svckit.errors import InsufficientStorage, InvalidInput
from mainspring_svckit.scratch import no_space

PAIRS = ColumnMapping(input_column="q", target_column="a")
TEXTS = ColumnMapping(text_column="text", group_column="file")
ROWS = [{"q": f"question {n}", "a": f"answer {n}"} for n in range(30)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
TSV = b"q\ta\n" + b"".join(f"{row['q']}\t{row['a']}\n".encode() for row in ROWS)
Read = Callable[..., list[Record]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads bytes as a service reads a source of that name; the format is recognised."""

    def read(data: bytes, name: str, columns: ColumnMapping = ColumnMapping()) -> list[Record]:  # noqa: B008 - frozen.
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        path = folder / "source-0"
        path.write_bytes(data)
        with ExitStack() as stack:
            source = SourceFile(path, "source 0", recognised(path, name, name), None, name)
            return list(open_source(source, columns, stack)[0].records())

    return read


def values(records: list[Record]) -> list[Any]:
    assert [r.problem for r in records if r.problem] == []
    return [record.values for record in records]


def problems(records: list[Record]) -> dict[int, str]:
    return {record.line: record.problem for record in records if record.problem}


def table() -> Any:
    return pa.Table.from_pylist(ROWS)


def parquet(rows: Any = None, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table() if rows is None else rows, sink, **options)
    return sink.getvalue()


def arrow(compression: str) -> bytes:
    sink = io.BytesIO()
    feather.write_feather(table(), sink, compression=compression)
    return sink.getvalue()


def stream() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table().schema) as writer:
        writer.write_table(table())
    return sink.getvalue()


def pdf(*pages: str) -> bytes:
    """A PDF with a line of text on each page."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids: list[str] = []
    for text in pages:
        content = f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode()
        kids.append(f"{len(objects) + 1} 0 R")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects) + 2} 0 R"
            f" /Resources << /Font << /F1 3 0 R >> >> >>".encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    objects[1] = f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(kids)}] >>".encode()
    out, places = bytearray(b"%PDF-1.4\n"), list[int]()
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    return bytes(out) + b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, start)


def word() -> bytes:
    document: Any = docx.Document()
    document.add_heading("Rules", 1)
    document.add_paragraph("Water is wet.")
    cells = document.add_table(1, 2).rows[0].cells
    cells[0].text, cells[1].text = "left", "right"
    sink = io.BytesIO()
    document.save(sink)
    return sink.getvalue()


def packed(members: dict[str, bytes], **options: Any) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, **options) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return sink.getvalue()


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


TABLES: dict[str, bytes] = {
    "x.jsonl": JSONL,
    "x.json": json.dumps(ROWS, indent=2).encode(),
    "x.csv": TSV.replace(b"\t", b","),
    "x.tsv": TSV,
    "x.parquet": parquet(),
    "x.arrow": arrow("uncompressed"),
    "x.feather": arrow("zstd"),
    "stream.arrow": stream(),
    "no ending": JSONL,
    "list": json.dumps(ROWS).encode(),
    "utf16.csv": TSV.replace(b"\t", b",").decode().encode("utf-16"),
    "utf16be.jsonl": b"\xfe\xff" + JSONL.decode().encode("utf-16-be"),
    "x.ndjson": b"\xef\xbb\xbf" + JSONL,
    "misnamed.json": JSONL,
}


@pytest.mark.parametrize("packing", ["", "gz", "zst"])
@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read_in_every_format_and_packing(read: Read, name: str, packing: str) -> None:
    data = {"": bytes, "gz": gzip.compress, "zst": zstd}[packing](TABLES[name])
    assert values(read(data, f"{name}.{packing}" if packing else name, PAIRS)) == ROWS


@pytest.mark.parametrize(
    ("name", "data", "texts"),
    [
        ("a.txt", b"Water\nis wet.\n\n\nFire is hot.\n", ["Water\nis wet.\n\nFire is hot."]),
        ("a.md", b"# Rules\n\nWater is wet.", ["# Rules\n\nWater is wet."]),
        ("a.html", b"<html><head><title>T</title><script>x()</script></head><p>Water</p><p>Fire", ["Water\n\nFire"]),
        ("a", b"<!DOCTYPE html><body>Water", ["Water"]),
        ("a.pdf", pdf("Water is wet.", "Fire is hot."), ["Water is wet.\n\nFire is hot."]),
        ("a.docx", word(), ["# Rules\n\nWater is wet.\n\nleft | right"]),
        ("utf16.txt", "Wasser ist naß.".encode("utf-16"), ["Wasser ist naß."]),
    ],
)
@pytest.mark.parametrize("packing", [bytes, gzip.compress, zstd])
def test_documents_are_read_as_passages(read: Read, name: str, data: bytes, texts: list[str], packing: Any) -> None:
    found = values(read(packing(data), name, TEXTS))
    assert [v["text"] for v in found] == texts
    assert {v["file"] for v in found} == {name}


def test_python_code_is_read_as_summaries(read: Read) -> None:
    code = b'def add(a, b):\n    """Return the sum of two numbers.\n\n    Both of them may well be negative.\n    """\n'
    (found,) = values(read(code, "sums.py"))
    assert found["summary"] == "Return the sum of two numbers."
    assert found["text"].startswith("def add(a, b):")
    assert problems(read(b"def broken(:", "broken.py")) == {1: "cannot be parsed as Python 3.11: invalid syntax"}


def test_long_texts_become_passages_at_paragraphs_and_sentences() -> None:
    blocks = [(1, "a" * 30), (3, "b" * 30), (5, "# Title"), (7, "One sentence. " * 10), (9, "x" * 130)]
    found = list(passages(blocks, 70))
    assert [place for place, _ in found][:2] == [1, 5]
    assert max(len(text) for _, text in found) <= 70
    assert "".join(text for _, text in found).count("One sentence.") == 10
    assert "".join(text for _, text in found).count("x") == 130


def test_archives_are_read_member_by_member(read: Read) -> None:
    data = packed({"b/x.jsonl": JSONL, "a/notes.txt": b"Water is wet.", "c.csv.gz": gzip.compress(b"q,a\n1,2\n")})
    found = values(read(data, "all.zip"))
    assert [v["file"] for v in found] == ["a/notes.txt", *["b/x.jsonl"] * 30, "c.csv.gz"]
    assert read(data, "all.zip")[1].raw.startswith(b"b/x.jsonl:1: {")
    assert [record.line for record in read(data, "all.zip")] == list(range(1, 33))


def link(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


def test_b6_members_that_lead_out_are_refused_and_nothing_is_written_outside(read: Read, tmp_path: Path) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        for name in ("../up.txt", "/etc/passwd", "a/../../up.txt", "..\\up.txt", "C:/x.txt", "n" * 301 + ".txt"):
            file.writestr(name, b"text")
        file.writestr(link("link.txt"), b"/etc/passwd")
        file.writestr("inner.zip", packed({"x.txt": b"x"}))
        file.writestr("what.bin", b"\x00\x01")
        file.writestr("fine.txt", b"Water is wet.")
    before = {path for path in tmp_path.parent.rglob("*") if path.is_file()}
    found = read(sink.getvalue(), "x.zip", TEXTS)
    assert [r.values["text"] for r in found if not r.problem] == ["Water is wet."]
    told = [r.problem for r in found if r.problem]
    assert sum("leads out" in problem for problem in told) == 5
    assert sum("300 characters" in problem for problem in told) == 1
    assert sum("a link or a device" in problem for problem in told) == 1
    assert sum("archive in an archive" in problem for problem in told) == 1
    assert sum("format is not known" in problem for problem in told) == 1
    left = {path for path in tmp_path.parent.rglob("*") if path.is_file()} - before
    assert {path.name for path in left} == {"source-0"}


def test_b6_an_archive_of_too_many_members_is_not_even_listed(read: Read) -> None:
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 65_535, 65_535, 100, 0, 0)
    with pytest.raises(InvalidInput) as caught:
        read(b"PK\x03\x04" + b"x" * 100 + end, "x.zip")
    assert caught.value.reason == "SOURCE_TOO_LARGE"


def small_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "FREE_BYTES", 1 << 16)


ZEROS = bytes(8 << 20)


@pytest.mark.parametrize("bomb", [gzip.compress(ZEROS), zstd(ZEROS), gzip.compress(gzip.compress(ZEROS))])
def test_b6_what_unpacks_to_far_more_than_it_is_is_refused(
    read: Read, bomb: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_allowance(monkeypatch)
    with pytest.raises(InvalidInput) as caught:
        read(bomb, "x.jsonl.gz")
    assert caught.value.reason == "SOURCE_TOO_LARGE"


def test_b6_a_zip_bomb_stops_at_the_bound_and_leaves_nothing(
    read: Read, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small_allowance(monkeypatch)
    with pytest.raises(InvalidInput) as caught:
        read(packed({f"{n}.txt": ZEROS for n in range(4)}), "x.zip")
    assert caught.value.reason == "SOURCE_TOO_LARGE"
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"source-0"}


def test_b6_a_docx_that_unpacks_to_memory_is_refused(read: Read) -> None:
    bomb = packed({"[Content_Types].xml": b"<x/>", "word/document.xml": bytes(100 << 20)})
    (problem,) = problems(read(bomb, "x.docx")).values()
    assert problem.startswith("unpacks to 104857604 bytes")


def test_f10_packed_files_that_are_cut_short_or_flipped_are_refused(read: Read) -> None:
    data = "".join(f'{{"q": "{n * 7919}", "a": "{n * 104729}"}}\n' for n in range(20_000)).encode()
    flipped = bytearray(gzip.compress(data))
    flipped[len(flipped) // 2] ^= 0xFF
    cut = [pack(data)[: len(pack(data)) // 2] for pack in (gzip.compress, zstd)]
    for damaged in (*cut, bytes(flipped)):
        with pytest.raises(InvalidInput) as caught:
            read(damaged, "x.jsonl.gz", PAIRS)
        assert caught.value.reason == "SOURCE_UNREADABLE"


def test_f9_a_disk_that_fills_up_while_unpacking_leaves_nothing_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "source"
    path.write_bytes(gzip.compress(JSONL))

    def full(path: Path) -> Iterator[bytes]:
        yield JSONL[:100]
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(unpacking, "_gzip", full)
    with pytest.raises(InsufficientStorage), no_space("here"):
        unpacking.unpacked(path)
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == [path]
    assert unpacking.unpacked(path).read_bytes() == JSONL


def test_b9_the_shared_file_of_broken_rows_costs_its_broken_rows_only(read: Read) -> None:
    path = Path(__file__).parents[4] / "shared" / "data" / "messy" / "bad-lines.csv"
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    found = read(path.read_bytes(), path.name, ColumnMapping(input_column="mr", target_column="ref"))
    assert sorted(problems(found)) == [3, 4, 5]
    assert [r.values["ref"] for r in found if not r.problem] == ["fine row", "fine row two"]


@pytest.mark.parametrize("name", ["x.parquet", "x.arrow", "x.feather", "stream.arrow"])
def test_f10_tables_that_are_cut_short_are_refused(read: Read, name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(TABLES[name][: len(TABLES[name]) * 2 // 3], name, PAIRS)
    assert caught.value.reason == "SOURCE_UNREADABLE"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.pdf", pdf("Water")[:200]),
        ("x.pdf", b"%PDF-1.7\n" + b"\x00\xff" * 500),
        ("x.docx", word()[:2000]),
        ("x.docx", packed({"[Content_Types].xml": b"<not xml"})),
        ("x.html", b"<p>caf\xe9"),
        ("x.py", b"\x00"),
    ],
)
def test_f10_documents_that_are_damaged_are_refused(read: Read, name: str, data: bytes) -> None:
    found = read(data, name, TEXTS)
    assert len(found) == 1
    assert found[0].problem


def test_b1_a_document_that_takes_too_long_or_kills_its_reader_costs_itself_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"<p>Water")
    with documents.Documents(seconds=0.0) as slow:
        assert problems(list(slow.records(path, SourceFormat.HTML, "x")))[1].startswith("could not be read within 0 s")
    with documents.Documents() as some:
        monkeypatch.setattr(documents, "MODULE", "no_such_module")
        assert "ended the process" in problems(list(some.records(path, SourceFormat.HTML, "x")))[1]
        monkeypatch.undo()
        assert values(list(some.records(path, SourceFormat.HTML, "x")))[0]["text"] == "Water"


def test_b9_a_parquet_file_made_to_fill_memory_is_refused_before_it_is_read(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mainspring_data_ingest.adapters.columnar.MAX_GROUP_BYTES", 1 << 20)
    bomb = parquet(pa.table({"q": ["x" * (4 << 20)], "a": ["y"]}))
    assert len(bomb) < 1 << 20
    with pytest.raises(InvalidInput) as caught:
        read(bomb, "x.parquet", PAIRS)
    assert caught.value.reason == "SOURCE_TOO_LARGE"


def test_b9_duplicate_columns_are_refused_where_they_matter(read: Read) -> None:
    twice = pa.table([["1"], ["2"], ["3"]], names=["q", "q", "a"])
    for name, data in {"x.tsv": b"q\tq\ta\n1\t2\t3\n", "x.parquet": parquet(twice)}.items():
        with pytest.raises(InvalidInput) as caught:
            read(data, name, PAIRS)
        assert caught.value.reason == "SOURCE_REPEATS_COLUMN"


def test_b9_several_encodings_in_one_file_cost_their_lines_only(read: Read) -> None:
    mixed = b'{"q": "caf\xc3\xa9", "a": "1"}\n{"q": "caf\xe9", "a": "2"}\n{"q": "na\xefve", "a": "3"}\n' + JSONL
    found = read(mixed, "x.jsonl", PAIRS)
    assert problems(found) == {2: "is not UTF-8 text", 3: "is not UTF-8 text"}
    assert found[0].values["q"] == "café"
    broken = read(b"Water.\n\ncaf\xe9\n\nFire.", "x.txt", TEXTS)
    assert problems(broken) == {3: "is not UTF-8 text"}
    assert [r.values["text"] for r in broken if r.values] == ["Water.\n\nFire."]


def test_b9_utf_16_with_halves_of_pairs_costs_their_lines_only(read: Read) -> None:
    data = "q,a\nx,y\n".encode("utf-16") + b"\x00\xd8,\x00z\x00\n\x00" + "v,w\n".encode("utf-16-le") + b"x"
    found = read(data, "x.csv", PAIRS)
    assert [r.values["q"] for r in found if not r.problem][:2] == ["x", "v"]
    assert problems(found)[3] == "is not UTF-8 text"


def test_b9_an_endless_line_is_passed_over_in_bounded_memory(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (lines, json_reader):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 1 << 20)
    monkeypatch.setattr(json_reader, "_CHUNK", 1 << 16)
    endless = b'{"q": "' + b"x" * (3 << 20) + b'", "a": "y"}'
    for name, data in {
        "x.jsonl": endless + b"\n" + JSONL,
        "x.json": b"[" + endless + b"," + json.dumps(ROWS).encode()[1:],
        "x.csv": b"q,a\n" + b"x" * (3 << 20) + b"\n" + TABLES["x.csv"][4:],
        "x.tsv": b"q\ta\n" + b"x" * (3 << 20) + b"\n" + TSV[4:],
    }.items():
        found = read(data, name, PAIRS)
        assert len(found) == 31, name
        assert [r.problem.startswith("is longer than") for r in found if r.problem] == [True]


@pytest.mark.parametrize(
    ("element", "problem"),
    [
        (b'{"q": NaN}', "is not JSON"),
        (b'{"q": 1e400}', "is not JSON"),
        (b'{"q": "\\ud800"}', "is not JSON"),
        (b'{"q": "\xff"}', "is not UTF-8"),
        (b"[1, 2]", "not an object"),
        (b'"text, ] } \\" \\\\"', "not an object"),
        (b"", "is not JSON"),
        (b'{"q" 1}', "is not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "is not JSON"),
        (b'{"q": 1, "q": 2, "a": 3}', "has a column twice"),
    ],
)
def test_b3_a_broken_element_of_an_array_costs_itself_only(read: Read, element: bytes, problem: str) -> None:
    found = read(b'[{"q": "1", "a": "[{\\""}, ' + element + b' , {"q": "2", "a": "b"}]', "x.json", PAIRS)
    assert [r.values.get("q") for r in found] == ["1", None, "2"]
    assert problem in problems(found)[2]


@pytest.mark.parametrize("data", [b"[", b'[{"q": 1}', b'[{"q": "', b'[{"q": 1}] x', b"3", b'"x"', b'[{"q": 1},'])
def test_b3_arrays_that_do_not_end_are_refused(read: Read, data: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(data, "x.json", PAIRS)
    assert caught.value.reason == "SOURCE_UNREADABLE"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=4), max_size=8),
    st.integers(1, 40),
    st.sampled_from([None, 1]),
)
def test_b1_any_array_is_read_as_json_reads_it(
    tmp_path: Path, rows: list[dict[str, str]], chunk: int, indent: int | None
) -> None:
    path = tmp_path / "x"
    path.write_text(json.dumps(rows, indent=indent))
    before, json_reader._CHUNK = json_reader._CHUNK, chunk  # pyright: ignore[reportPrivateUsage] - elements across chunks.
    try:
        with path.open("rb") as file:
            found = list(json_reader.JsonArrayReader(file, ()).records())
    finally:
        json_reader._CHUNK = before  # pyright: ignore[reportPrivateUsage]
    assert [r.values for r in found if not r.problem] == rows


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=400)
    | st.sampled_from(list(TABLES.values())).flatmap(
        lambda data: st.tuples(st.integers(0, len(data) - 1), st.integers(1, 255)).map(
            lambda at: data[: at[0]] + bytes([data[at[0]] ^ at[1]]) + data[at[0] + 1 :]
        )
    ),
    st.sampled_from(["x.jsonl", "x.json", "x.csv", "x.tsv", "x.parquet", "x.arrow", "x.txt", "x.zip", "x.gz"]),
)
def test_b1_any_bytes_under_any_name_give_records_or_a_reason(read: Read, data: bytes, name: str) -> None:
    try:
        found = read(data, name, TEXTS)
    except InvalidInput as err:
        assert err.reason.startswith("SOURCE_")
    else:
        assert all(record.problem or record.values is not None for record in found)


def test_nothing_tells_the_format_of_what_has_neither_name_nor_signature(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"some words")
    with pytest.raises(InvalidInput) as caught:
        recognised(tmp_path / "x", "x", "source 0")
    assert caught.value.reason == "SOURCE_FORMAT_UNKNOWN"
    assert archive.MAX_MEMBERS < 65_535
