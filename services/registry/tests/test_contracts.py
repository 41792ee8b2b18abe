"""The importer of models by one suite, over the fake and over the real child process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mainspring_registry.adapters.importer import ChildImporter
from mainspring_registry.application.ports import ModelImporter
from mainspring_registry.domain.catalogue import ModelKind
from mainspring_registry.domain.imports import ModelImport
from mainspring_svckit.errors import InvalidInput
from mainspring_testkit.fakes import FakeClock
from mainspring_testkit.tiny import tiny_llama

from .fakes import FakeImporter


def asked(path: str) -> ModelImport:
    model = "projects/p/models/base"
    return ModelImport("projects/p/modelImports/i", model, ModelKind.FOUNDATION, "", path, "", 0, FakeClock().now())


class ModelImporterContract:
    """What every importer does; fixtures `importer`, `model` and `no_model` (paths), and `left`: what it leaves."""

    async def test_the_files_of_a_version_stand_in_a_folder_of_their_own(
        self, importer: ModelImporter, model: str
    ) -> None:
        made = await importer.run(asked(model))
        assert "gguf" in made.files
        for path in made.files.values():
            assert path.is_relative_to(made.folder)
            assert path.stat().st_size > 0
        assert made.serving.context_tokens > 0
        assert made.origin

    async def test_b7_what_is_no_model_is_refused_and_leaves_nothing(
        self, importer: ModelImporter, no_model: str, left: Callable[[], list[Path]]
    ) -> None:
        with pytest.raises(InvalidInput) as caught:
            await importer.run(asked(no_model))
        assert caught.value.reason
        assert left() == []


class TestFakeImporter(ModelImporterContract):
    @pytest.fixture
    def importer(self, tmp_path: Path, no_model: str) -> FakeImporter:
        made = FakeImporter(tmp_path / "import")
        made.refused = {no_model}
        return made

    @pytest.fixture
    def model(self) -> str:
        return "/models/m"

    @pytest.fixture
    def no_model(self) -> str:
        return "/models/none"

    @pytest.fixture
    def left(self, tmp_path: Path) -> Callable[[], list[Path]]:
        return lambda: list(tmp_path.iterdir())


class TestChildImporter(ModelImporterContract):
    @pytest.fixture
    def scratch(self, tmp_path: Path) -> Path:
        folder = tmp_path / "scratch"
        folder.mkdir()
        return folder

    @pytest.fixture
    def importer(self, tmp_path: Path, scratch: Path) -> ChildImporter:
        return ChildImporter(sys.executable, [tmp_path / "models"], scratch, 60)

    @pytest.fixture
    def model(self, tmp_path: Path) -> str:
        return str(tiny_llama(tmp_path / "models" / "tiny"))

    @pytest.fixture
    def no_model(self, tmp_path: Path) -> str:
        folder = tmp_path / "models" / "none"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        return str(folder)

    @pytest.fixture
    def left(self, scratch: Path) -> Callable[[], list[Path]]:
        return lambda: list(scratch.iterdir())

    async def test_b6_a_path_outside_the_roots_is_refused(
        self, importer: ChildImporter, left: Callable[[], list[Path]]
    ) -> None:
        with pytest.raises(InvalidInput) as caught:
            await importer.run(asked("/etc"))
        assert caught.value.reason == "PATH_NOT_ALLOWED"
        assert left() == []
