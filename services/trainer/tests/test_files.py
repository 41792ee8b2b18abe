"""The cache of files on a folder as artifact store."""

from pathlib import Path

import pytest

from mainspring_svckit.artifacts import ArtifactStore
from mainspring_trainer.adapters.files import CachedFiles


@pytest.fixture
def store(artifact_url: str) -> ArtifactStore:
    return ArtifactStore(artifact_url)


async def test_a_folder_holds_files_and_no_links(store: ArtifactStore, tmp_path: Path) -> None:
    """Readers of models refuse a symbolic link that leads out of the model's folder."""
    files = CachedFiles(store, tmp_path / "cache", 1 << 30)
    wanted = {name: await files.put_bytes("p", name.encode()) for name in ("config.json", "deep/weights")}
    folder = await files.fetch_folder("p", wanted)
    for name in wanted:
        assert (folder / name).read_bytes() == name.encode()
        assert (folder / name).resolve() == (folder / name)
    assert await files.fetch_folder("p", wanted) == folder
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["config.json", "weights"]


async def test_f10_a_file_damaged_in_the_cache_is_brought_again(store: ArtifactStore, tmp_path: Path) -> None:
    files = CachedFiles(store, tmp_path / "cache", 1 << 30)
    wanted = {"weights": await files.put_bytes("p", b"right")}
    folder = await files.fetch_folder("p", wanted)
    (folder / "weights").write_bytes(b"wrong")
    assert ((await files.fetch_folder("p", wanted)) / "weights").read_bytes() == b"right"


async def test_b6_a_file_cannot_be_named_out_of_its_folder(store: ArtifactStore, tmp_path: Path) -> None:
    files = CachedFiles(store, tmp_path / "cache", 1 << 30)
    with pytest.raises(ValueError, match="no name of a file"):
        await files.fetch_folder("p", {"../../files/x": await files.put_bytes("p", b"x")})


async def test_i10_the_cache_forgets_what_was_used_longest_ago(store: ArtifactStore, tmp_path: Path) -> None:
    files = CachedFiles(store, tmp_path / "cache", 2500)
    folders = [
        await files.fetch_folder("p", {"weights": await files.put_bytes("p", bytes([number]) * 1000)})
        for number in range(4)
    ]
    assert [(folder / "weights").exists() for folder in folders] == [False, False, True, True]
    assert len(list((tmp_path / "cache" / "p" / "files").iterdir())) == 2


async def test_a_cache_smaller_than_one_model_keeps_that_model(store: ArtifactStore, tmp_path: Path) -> None:
    files = CachedFiles(store, tmp_path / "cache", 10)
    wanted = {name: await files.put_bytes("p", name.encode() * 100) for name in ("a", "b")}
    folder = await files.fetch_folder("p", wanted)
    assert {path.name for path in folder.iterdir()} == {"a", "b"}
