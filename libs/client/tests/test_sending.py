"""What `datasets import` takes files for, by what a service says of them."""

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mainspring.common.v1 import artifact_pb2
from mainspring.data.v1 import recipe_pb2, source_pb2
from mainspring.registry.v1 import model_pb2
from mainspring_client.cli.output import Ticker
from mainspring_client.cli.sending import Places, Sent, embedding_version, send
from mainspring_svckit.errors import InvalidInput, PreconditionFailed

OF_RECIPE = recipe_pb2.ColumnMapping(input_column="question", target_column="answer")
OWN = recipe_pb2.ColumnMapping(input_column="prompt", target_column="completion")
PAIRS, CORPUS = source_pb2.RECORD_SHAPE_PROMPT_COMPLETION, source_pb2.RECORD_SHAPE_CORPUS


class Service:
    """Says of every file what it is told to; a table without the columns is refused as one is."""

    def __init__(self, names: list[str], shape: Any, own: Any, *, table: bool = False) -> None:
        self.names, self.shape, self.own, self.table = names, shape, own, table

    async def upload(self, project: str, path: Path, **_: Any) -> artifact_pb2.Artifact:
        return artifact_pb2.Artifact(filename=path.name)

    async def preview(self, project: str, artifact: Any, *, columns: Any = None, records: int) -> Any:
        if columns is not None and self.table and columns.input_column not in self.names:
            raise InvalidInput("has no column", reason="SOURCE_LACKS_COLUMN")
        return source_pb2.SourcePreview(shape=self.shape, column_names=self.names, columns=columns or self.own)


async def sent(service: Service, folder: Path, *, of_recipe: bool) -> Sent:
    (folder / "x").write_text("x")
    client: Any = SimpleNamespace(data=service)
    with ExitStack() as stack, Ticker(quiet=True) as ticker:
        places = Places([str(folder / "x")], "", None)
        (found,) = await send(client, "p", places, OF_RECIPE, 1, stack, ticker, of_recipe=of_recipe)
    return found


@pytest.mark.parametrize("table", [False, True])
async def test_a_file_without_the_columns_of_the_recipe_that_is_there_keeps_its_own(
    tmp_path: Path, table: bool
) -> None:
    found = await sent(Service(["prompt", "completion"], PAIRS, OWN, table=table), tmp_path, of_recipe=True)
    assert found.preview.columns == OWN
    found = await sent(Service(["question", "answer"], PAIRS, OWN, table=table), tmp_path, of_recipe=True)
    assert found.preview.columns == OF_RECIPE


async def test_columns_that_somebody_names_are_not_passed_over(tmp_path: Path) -> None:
    found = await sent(Service(["prompt", "completion"], PAIRS, OWN), tmp_path, of_recipe=False)
    assert found.preview.columns == OF_RECIPE
    with pytest.raises(InvalidInput):
        await sent(Service(["prompt"], PAIRS, OWN, table=True), tmp_path, of_recipe=False)
    with pytest.raises(InvalidInput):
        await sent(Service(["odd"], None, None, table=True), tmp_path, of_recipe=True)


async def test_a_document_keeps_its_text_beside_columns_for_tables(tmp_path: Path) -> None:
    text = recipe_pb2.ColumnMapping(text_column="text", group_column="file")
    found = await sent(Service(["text", "file", "part"], CORPUS, text), tmp_path, of_recipe=False)
    assert found.preview.columns == text


async def test_a_model_that_makes_no_vectors_is_told_before_anything_is_asked() -> None:
    kinds = {"m": model_pb2.MODEL_KIND_EMBEDDING, "base": model_pb2.MODEL_KIND_FOUNDATION}

    async def model(name: str) -> model_pb2.Model:
        return model_pb2.Model(name=name, latest_version=f"{name}/versions/3")

    async def version(name: str) -> model_pb2.ModelVersion:
        return model_pb2.ModelVersion(name=name, kind=kinds[name.split("/")[3]])

    client: Any = SimpleNamespace(registry=SimpleNamespace(model=model, version=version))
    assert await embedding_version(client, "p", "m") == "projects/p/models/m/versions/3"
    assert await embedding_version(client, "p", "m/1") == "projects/p/models/m/versions/1"
    with pytest.raises(PreconditionFailed) as caught:
        await embedding_version(client, "p", "base/1")
    assert caught.value.reason == "NOT_AN_EMBEDDING_MODEL"
