"""Which files a person means, and documents put together to one archive."""

import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from mainspring_client.collecting import collect
from mainspring_svckit.errors import InvalidInput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jsonl", "sub/b.csv", "sub/c.md", "d.pdf", ".hidden/e.csv"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    (tmp_path / "outside.csv").write_text("secret")
    (tmp_path / "in" / "link.csv").symlink_to(tmp_path / "outside.csv")
    return tmp_path / "in"


def names(stack: ExitStack, *texts: str) -> list[str]:
    return [source.name for source in collect(texts, stack)]


def test_b6_folders_give_tables_and_one_archive_of_documents_but_nothing_from_outside(folder: Path) -> None:
    with ExitStack() as stack:
        found = collect([str(folder)], stack)
        assert [source.name for source in found] == ["a.jsonl", "b.csv", "documents.zip"]
        with zipfile.ZipFile(found[-1].path) as archive:
            assert archive.namelist() == ["d.pdf", "sub/c.md"]
            assert archive.read("sub/c.md") == b"sub/c.md"
        first = found[-1].path.read_bytes()
        again = collect([str(folder)], stack)[-1].path.read_bytes()
        assert first == again
        archive_path = found[-1].path
    assert not archive_path.exists()


def test_files_and_patterns_are_taken_once(folder: Path) -> None:
    with ExitStack() as stack:
        assert names(stack, str(folder / "a.jsonl"), str(folder / "*.jsonl")) == ["a.jsonl"]
        assert names(stack, str(folder / "**" / "*.csv")) == ["b.csv"]
        assert names(stack, str(folder / "d.pdf")) == ["d.pdf"]


@pytest.mark.parametrize("text", ["nowhere.csv", "*.nothing", ""])
def test_what_is_not_there_is_named(text: str, tmp_path: Path) -> None:
    with ExitStack() as stack, pytest.raises(InvalidInput) as caught:
        collect([str(tmp_path / text) if text else "no such file"], stack)
    assert caught.value.reason == "FILE_UNREADABLE"
