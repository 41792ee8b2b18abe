"""Reading sources and writing shards: real files, no service."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mainspring_data_ingest.adapters.csv_reader import CsvReader
from mainspring_data_ingest.adapters.jobs import JOB, RESULT, Job, SourceFile
from mainspring_data_ingest.adapters.jsonl import JsonlReader
from mainspring_data_ingest.adapters.lines import Line
from mainspring_data_ingest.adapters.refining_process import refine
from mainspring_data_ingest.application.ports import Refined
from mainspring_data_ingest.domain.columns import ColumnMapping
from mainspring_data_ingest.domain.datasets import Shard, root_sha256
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.recipes import IngestionRecipe, SplitShares
from mainspring_data_ingest.domain.records import Record, RefusalReason
from mainspring_data_ingest.domain.splits import Split
from mainspring_svckit.errors import InsufficientStorage, InvalidInput
from mainspring_svckit.values import ArtifactRef

HEADER = Line(1, b"mr,ref\n")
PAIRS = ColumnMapping(input_column="mr", target_column="ref")
BAD_LINES = (
    b'mr,ref\n"name[X]","fine row"\n"name[Y]","unterminated\nname[Z],too,many,columns\n'
    b'\xff\x80broken,bytes\n"name[W]","fine row two"\n'
)


def csv_records(data: bytes, *columns: str) -> list[Record]:
    return list(CsvReader(io.BytesIO(data), columns).records())


def jsonl_records(data: bytes, *columns: str) -> list[Record]:
    return list(JsonlReader(io.BytesIO(data), columns).records())


def refused_file(read: Any, data: bytes, *columns: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(data, *columns)
    return caught.value.reason


def good(records: list[Record]) -> list[tuple[int, list[Any]]]:
    return [(record.line, list(record.values.values())) for record in records if not record.problem]


def bad(records: list[Record]) -> list[int]:
    return [record.line for record in records if record.problem]


def recipe(columns: ColumnMapping = PAIRS, **changes: Any) -> IngestionRecipe:
    return IngestionRecipe("projects/p/ingestionRecipes/r", "projects/p/datasets/d", columns, **changes)


def refined(folder: Path, *files: tuple[str, bytes], rows_per_shard: int = 50_000, **changes: Any) -> Refined:
    folder.mkdir(parents=True, exist_ok=True)
    sources: list[SourceFile] = []
    for index, (name, data) in enumerate(files):
        path = folder / f"source-{index}"
        path.write_bytes(data)
        source_format = SourceFormat(name.rsplit(".", 1)[-1].upper())
        sources.append(SourceFile(path, f"source {index} ({name!r})", source_format, None))
    return refine(Job(recipe(**changes), tuple(sources), rows_per_shard), folder)


def jsonl(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def pairs(count: int, start: int = 0) -> bytes:
    return jsonl(*({"mr": f"q{number}", "ref": f"a{number}"} for number in range(start, start + count)))


def root(made: Refined) -> str:
    return root_sha256([Shard(s.split, ArtifactRef("", 0), s.rows, s.rows_sha256) for s in made.shards])


def test_b9_a_broken_csv_row_costs_its_line_only() -> None:
    records = csv_records(BAD_LINES, "mr", "ref")
    assert good(records) == [(2, ["name[X]", "fine row"]), (6, ["name[W]", "fine row two"])]
    problems = {record.line: record.problem for record in records if record.problem}
    assert problems[3].startswith("is not CSV")
    assert problems[4] == "has 4 fields; the header has 2"
    assert problems[5] == "is not UTF-8 text"


def test_csv_fields_may_hold_quotes_commas_and_lines() -> None:
    data = b'\xef\xbb\xbfmr,ref\r\n"a ""b"", c","x\r\ny"\r\n\r\nd,5" pipe\r\ne,f'
    records = csv_records(data, "mr")
    assert good(records) == [(2, ['a "b", c', "x\r\ny"]), (5, ["d", '5" pipe']), (6, ["e", "f"])]


def test_csv_rows_may_lack_columns_at_the_end() -> None:
    assert csv_records(b"mr,ref,note\na,b\nc\n")[1].values == {"mr": "c"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "SOURCE_EMPTY"),
        (b"\xef\xbb\xbf", "SOURCE_EMPTY"),
        (b"\n\n", "SOURCE_EMPTY"),
        (b"a,b\n1,2\n", "SOURCE_LACKS_COLUMN"),
        (b"mr;ref\n1;2\n", "SOURCE_LACKS_COLUMN"),
        (b"mr,ref,ref\n1,2,3\n", "SOURCE_REPEATS_COLUMN"),
        (b'mr,"ref\n1,2\n', "SOURCE_UNREADABLE"),
        (b"mr,ref\r1,2\r", "SOURCE_UNREADABLE"),
        ("mr,réf\n1,2\n".encode("latin-1"), "SOURCE_NOT_UTF8"),
        ("mr,ref\n1,2\n".encode("utf-16"), "SOURCE_NOT_UTF8"),
        (("mr,ref\n" + "one,two\n" * 20).encode("utf-16-le"), "SOURCE_NOT_TEXT"),
        (b"PK\x03\x04....", "SOURCE_NOT_TEXT"),
        (b"\x1f\x8b\x08....", "SOURCE_NOT_TEXT"),
        (bytes(range(256)) * 10, "SOURCE_NOT_TEXT"),
    ],
)
def test_b9_a_file_that_is_no_csv_has_a_reason(data: bytes, reason: str) -> None:
    assert refused_file(csv_records, data, "mr", "ref") == reason


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf"])
def test_b9_an_empty_jsonl_file_has_a_reason(data: bytes) -> None:
    assert refused_file(jsonl_records, data) == "SOURCE_EMPTY"


@pytest.mark.parametrize(
    "line",
    [
        b"{broken",
        b'{"mr": NaN}',
        b'{"mr": 1e400}',
        b"[" * 100_000,
        b'{"mr": "\\ud800"}',
        b'{"mr": "\x00"}',
        b'{"mr": "\xff"}',
        b'{"mr": 1} {"mr": 2}',
        b'["mr"]',
        b'{"mr": "1", "mr": "2"}',
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_b3_a_bad_json_line_is_refused_with_its_number_and_its_neighbours_are_kept(line: bytes) -> None:
    records = jsonl_records(b'\xef\xbb\xbf{"mr": "mr"}\n\n' + line + b'\r\n{"mr": "z", "__proto__": 1}', "mr")
    assert [record.line for record in records] == [1, 3, 4]
    assert bad(records) == [3]
    assert records[2].values["__proto__"] == 1


def test_b3_a_huge_line_is_refused_without_being_held(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lines", "csv_reader"):
        monkeypatch.setattr(f"mainspring_data_ingest.adapters.{module}.MAX_RECORD_BYTES", 1000)
    huge = b'{"mr": "' + b"x" * 5_000_000 + b'"}\n'
    records = jsonl_records(b'{"mr": "a"}\n' + huge + b'{"mr": "b"}\n')
    assert (bad(records), len(records)) == ([2], 3)
    assert len(records[1].raw) <= 4096
    records = csv_records(b'mr,ref\na,b\n"' + b"x" * 5000 + b'",y\nc,"' + b"line\n" * 500 + b"\nd,e\n")
    assert [values for _, values in good(records) if len(values) == 2] == [["a", "b"], ["d", "e"]]
    assert bad(records)[:2] == [3, 4]


def test_b1_a_csv_file_made_to_be_read_again_and_again_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line leaves a quote open, inside quotes or not; without a limit, work would grow by n squared."""
    monkeypatch.setattr("mainspring_data_ingest.adapters.csv_reader.MAX_RECORD_BYTES", 1 << 16)
    decoded = 0

    class Counted(bytes):
        def decode(self, *args: Any, **options: Any) -> str:
            nonlocal decoded
            decoded += 1
            return super().decode(*args, **options)

    lines = 50_000
    feed = [Line(number, Counted(b'x","\n')) for number in range(2, lines + 2)]
    monkeypatch.setattr("mainspring_data_ingest.adapters.csv_reader.lines", lambda _: iter([HEADER, *feed]))
    records = csv_records(b"mr,ref\n", "mr")
    assert len(bad(records)) == lines
    assert decoded < 30 * lines


@settings(max_examples=300, deadline=1000)
@given(st.binary(max_size=400), st.sampled_from([csv_records, jsonl_records]))
def test_b1_any_bytes_give_records_or_a_reason(data: bytes, read: Any) -> None:
    try:
        records = read(b'mr,ref\n"a",b\n' + data)
    except InvalidInput:
        return
    assert sorted({record.line for record in records}) == [record.line for record in records]


@settings(max_examples=200, deadline=1000)
@given(st.lists(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=2, max_size=2), max_size=8))
def test_what_is_written_as_csv_is_read_back(rows: list[list[str]]) -> None:
    import csv

    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["mr", "ref"], *rows])
    records = csv_records(text.getvalue().encode())
    assert [list(record.values.values()) for record in records] == rows


def test_every_row_is_kept_or_refused_once(tmp_path: Path) -> None:
    rows = jsonl(
        {"mr": "a", "ref": "b"}, {"mr": "a", "ref": "b"}, {"mr": "a"}, {"mr": 1, "ref": "b"}, {"mr": "", "ref": ""}
    )
    made = refined(tmp_path, ("x.jsonl", rows + b"{\n"), ("y.csv", BAD_LINES))
    assert made.tally.input_rows == 6 + 5
    assert sum(made.tally.splits.values()) == 3
    assert made.tally.refusals == {
        RefusalReason.UNREADABLE: 4,
        RefusalReason.MISSING_COLUMN: 1,
        RefusalReason.NOT_TEXT: 1,
        RefusalReason.EMPTY: 1,
        RefusalReason.EXACT_DUPLICATE: 1,
    }
    assert made.refused is not None
    listed = [json.loads(line) for line in made.refused.read_text().splitlines()]
    assert [(row["source_index"], row["line"]) for row in listed] == [
        (0, 2), (0, 3), (0, 4), (0, 5), (0, 6), (1, 3), (1, 4), (1, 5),
    ]  # fmt: skip
    assert listed[-1]["excerpt"] == "\\xff\\x80broken,bytes"


def test_shards_hold_the_rows_in_order(tmp_path: Path) -> None:
    made = refined(tmp_path, ("x.jsonl", pairs(50)), rows_per_shard=7, split=SplitShares(100, 0, 0))
    assert [shard.rows for shard in made.shards] == [7] * 7 + [1]
    tables = [pq.read_table(shard.path) for shard in made.shards]
    rows = [row for table in tables for row in table.to_pylist()]
    assert [row["line"] for row in rows] == list(range(1, 51))
    assert rows[3]["messages"] == [{"role": "user", "content": "q3"}, {"role": "assistant", "content": "a3"}]
    assert (rows[3]["group"], rows[3]["source_index"]) == ("q3", 0)
    assert str(tables[0].schema.field("messages").type) == "list<element: struct<role: string, content: string>>"
    for shard, table in zip(made.shards, tables, strict=True):
        canonical = b"".join(
            json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
            for row in table.to_pylist()
        )
        assert hashlib.sha256(canonical).hexdigest() == shard.rows_sha256


def test_the_same_input_gives_the_same_digests(tmp_path: Path) -> None:
    files = (("x.jsonl", pairs(200)), ("y.csv", BAD_LINES))
    first, second = refined(tmp_path / "1", *files), refined(tmp_path / "2", *files)
    assert root(first) == root(second)
    changed = refined(tmp_path / "3", *files, system_prompt="s")
    assert root(first) != root(changed)


def test_b9_appended_data_moves_no_row_between_splits(tmp_path: Path) -> None:
    def places(made: Refined) -> dict[str, Split]:
        return {row: shard.split for shard in made.shards for row in pq.read_table(shard.path)["row_id"].to_pylist()}

    before = places(refined(tmp_path / "1", ("x.jsonl", pairs(200))))
    after = places(refined(tmp_path / "2", ("x.jsonl", pairs(200)), ("y.jsonl", pairs(100, 150))))
    assert len(after) == 250
    assert before.items() <= after.items()


SOME_ROWS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.sampled_from("1234")), max_size=12)


@settings(max_examples=25, deadline=None)  # A busy machine is slow, not wrong.
@given(SOME_ROWS, SOME_ROWS)
def test_b9_a_row_never_moves_when_data_is_appended(before: list[Any], after: list[Any]) -> None:
    columns = ColumnMapping(input_column="mr", target_column="ref", group_column="of")

    def places(rows: list[Any]) -> dict[int, Split]:
        data = jsonl(*({"mr": prompt, "ref": answer, "of": group} for prompt, answer, group in rows))
        with tempfile.TemporaryDirectory() as folder:
            made = refined(Path(folder), ("x.jsonl", data), columns=columns, split=SplitShares(50, 25, 25))
            return {line: s.split for s in made.shards for line in pq.read_table(s.path)["line"].to_pylist()}

    whole = places([("first", "z", "0"), *before, *after])
    part = places([("first", "z", "0"), *before])
    assert {line: split for line, split in whole.items() if line <= len(before) + 1} == part


def test_b9_a_prompt_is_never_in_two_splits(tmp_path: Path) -> None:
    columns = ColumnMapping(input_column="mr", target_column="ref", group_column="of")
    rows = ({"mr": "same prompt", "ref": str(number), "of": str(number)} for number in range(100))
    made = refined(tmp_path, ("x.jsonl", jsonl(*rows)), columns=columns, split=SplitShares(50, 25, 25))
    assert [shard.rows for shard in made.shards] == [100]


def failed(tmp_path: Path, *files: tuple[str, bytes]) -> tuple[str, str]:
    with pytest.raises(InvalidInput) as caught:
        refined(tmp_path, *files)
    return caught.value.reason, caught.value.message


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("x.csv", b"mr,ref\n", "SOURCE_HAS_NO_ROWS"),
        ("x.jsonl", b"\n \n", "SOURCE_HAS_NO_ROWS"),
        ("x.jsonl", jsonl({"a": 1}, {"b": 2}), "SOURCE_LACKS_COLUMN"),
        ("x.jsonl", b"[\n1,\n2]\n", "SOURCE_UNREADABLE"),
        ("x.jsonl", b"mr,ref\na,b\n", "SOURCE_UNREADABLE"),
        ("x.csv", "mr,ref\né,b\nü,c\nd,e\n".encode("latin-1"), "SOURCE_NOT_UTF8"),
        ("x.csv", b"mr,ref\n" + b"a,b\n" * 80 + b"\xe9,b\n" * 10, "SOURCE_NOT_UTF8"),
    ],
)
def test_b9_a_source_that_is_useless_fails_the_whole(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    found, message = failed(tmp_path, ("good.jsonl", pairs(3)), (name, data))
    assert found == reason
    assert name in message


def test_b9_without_a_row_left_there_is_no_version(tmp_path: Path) -> None:
    reason, message = failed(tmp_path, ("x.jsonl", jsonl({"mr": "", "ref": "b"}, {"mr": 1, "ref": "b"})))
    assert reason == "NO_ROWS_KEPT"
    assert "EMPTY 1, NOT_TEXT 1" in message
    assert "source 0 ('x.jsonl') line 1: column 'mr' is empty" in message


def test_a_damaged_line_among_many_fails_nothing(tmp_path: Path) -> None:
    made = refined(tmp_path, ("x.csv", b"mr,ref\n" + b"".join(b"a%d,b\n" % n for n in range(200)) + b"\xe9,b\n" * 10))
    assert sum(made.tally.splits.values()) == 200


def test_a_source_that_repeats_another_fails_nothing(tmp_path: Path) -> None:
    made = refined(tmp_path, ("x.jsonl", pairs(5)), ("again.jsonl", pairs(5)))
    assert made.tally.refusals == {RefusalReason.EXACT_DUPLICATE: 5}


@pytest.mark.parametrize("name", ["train-00000.partial", "chunks/000000.arrow.partial", "refused.jsonl"])
def test_f9_a_full_disk_has_a_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "chunks").mkdir()
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(InsufficientStorage):
        refined(tmp_path, ("x.jsonl", pairs(50) + b"{}"), split=SplitShares(100, 0, 0))


def test_f9_a_full_disk_is_told_by_the_process(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(pairs(50))
    source = SourceFile(tmp_path / "source", "source 0", SourceFormat.JSONL, None)
    (tmp_path / "job.json").write_bytes(JOB.dump_json(Job(recipe(split=SplitShares(100, 0, 0)), (source,))))
    full = tmp_path / "train-00000.partial"
    full.symlink_to("/dev/full")
    ended = run_process(tmp_path)
    assert ended.returncode == 2
    assert json.loads(ended.stdout.splitlines()[-1])["reason"] == "INSUFFICIENT_STORAGE"
    full.unlink()
    ended = run_process(tmp_path)
    assert ended.returncode == 0
    assert RESULT.validate_json((tmp_path / "result.json").read_bytes()).tally.splits[Split.TRAIN] == 50


def run_process(folder: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "mainspring_data_ingest.adapters.refining_process", str(folder)]
    read_end, write_end = os.pipe()
    try:
        return subprocess.run(command, stdin=read_end, capture_output=True, check=False, timeout=60)
    finally:
        os.close(read_end)
        os.close(write_end)


def test_f1_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "source")  # Nobody writes to it, so the process hangs in its job.
    source = SourceFile(tmp_path / "source", "source 0", SourceFormat.JSONL, None)
    (tmp_path / "job.json").write_bytes(JOB.dump_json(Job(recipe(), (source,))))
    command = [sys.executable, "-m", "mainspring_data_ingest.adapters.refining_process", str(tmp_path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        assert child.stdin is not None
        child.stdin.close()  # As when the parent is killed.
        assert child.wait(timeout=30) == 1
    finally:
        child.kill()
        child.wait()
