"""Versions of ingestion recipes: each change is one, nobody changes it, and what was made names the one it is of."""

import asyncio
import json
from collections.abc import Callable
from importlib import import_module

import pytest
import yaml
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from mainspring.data.v1 import data_service_pb2, data_service_pb2_grpc, recipe_pb2
from mainspring_client.cli import recipes as cli
from mainspring_client.client import Mainspring
from mainspring_client.configuration import Configuration
from mainspring_data_ingest.adapters import postgres as tables
from mainspring_svckit.artifacts import ArtifactStore
from mainspring_svckit.errors import InvalidInput, NotFound
from mainspring_svckit.mapping import artifact_from_proto
from mainspring_testkit.plugin import DatabaseFor

from .harness import DATASET, RECIPE, DataIngest, pairs


async def test_each_change_of_a_recipe_is_a_version_that_what_it_makes_names(
    ingest: DataIngest, artifact_url: str
) -> None:
    assert (await ingest.put_recipe()).ingestion_recipe.version == 1
    assert (await ingest.put_recipe()).ingestion_recipe.version == 1, "nothing has changed"
    first = await ingest.ingest(pairs(40))
    assert (await ingest.put_recipe(system_prompt="Be brief.")).ingestion_recipe.version == 2
    second = await ingest.ingest(pairs(40))
    assert (await ingest.put_recipe()).ingestion_recipe.version == 3, "what it said before is a change too"
    for number, work in ((1, first), (2, second)):
        version = await ingest.version(work.dataset_version)
        named = f"{RECIPE}/versions/{number}"
        assert (work.ingestion_recipe_version, version.ingestion_recipe_version) == (named, named)
        manifest = json.loads(await ArtifactStore(artifact_url).read("p", artifact_from_proto(version.manifest)))
        assert manifest["recipe_version"] == named
        found = (await ingest.call("GetIngestionRecipeVersion", name=named)).ingestion_recipe_version
        assert found.recipe_sha256 == version.recipe_sha256
        assert found.ingestion_recipe.system_prompt == ("Be brief." if number == 2 else "")
    listed = await ingest.call("ListIngestionRecipeVersions", parent=RECIPE, page_size=2)
    rest = await ingest.call(
        "ListIngestionRecipeVersions", parent=RECIPE, page_size=2, page_token=listed.next_page_token
    )
    versions = [*listed.ingestion_recipe_versions, *rest.ingestion_recipe_versions]
    assert [version.ingestion_recipe.version for version in versions] == [3, 2, 1]
    assert versions[0].recipe_sha256 == versions[2].recipe_sha256 != versions[1].recipe_sha256
    with pytest.raises(NotFound) as caught:
        await ingest.call("GetIngestionRecipeVersion", name=f"{RECIPE}/versions/4")
    assert caught.value.reason == "INGESTION_RECIPE_VERSION_NOT_FOUND"
    with pytest.raises(InvalidInput):
        await ingest.call("GetIngestionRecipeVersion", name=RECIPE)


async def test_a_version_of_a_recipe_is_applied_again(ingest: DataIngest) -> None:
    await ingest.put_recipe(system_prompt="Be brief.")
    await ingest.put_recipe(system_prompt="Be kind.")
    done = await ingest.ingest(pairs(10), ingestion_recipe=f"{RECIPE}/versions/1")
    assert (done.ingestion_recipe, done.ingestion_recipe_version) == (RECIPE, f"{RECIPE}/versions/1")
    rows = await ingest.rows(await ingest.version(done.dataset_version))
    assert {row["messages"][0]["content"] for row in rows} == {"Be brief."}
    with pytest.raises(NotFound):
        await ingest.start(pairs(1), ingestion_recipe=f"{RECIPE}/versions/3")


async def test_f13_changes_at_once_are_versions_without_gaps(ingest: DataIngest) -> None:
    await asyncio.gather(*(ingest.put_recipe(system_prompt=f"s{number}") for number in range(8)))
    listed = (await ingest.call("ListIngestionRecipeVersions", parent=RECIPE)).ingestion_recipe_versions
    assert [version.ingestion_recipe.version for version in listed] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert {version.ingestion_recipe.system_prompt for version in listed} == {f"s{number}" for number in range(8)}
    current = (await ingest.call("GetIngestionRecipe", name=RECIPE)).ingestion_recipe
    assert (current.version, current.system_prompt) == (8, listed[0].ingestion_recipe.system_prompt)


async def test_a3_versions_of_another_project_s_recipe_do_not_exist(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    stranger = ingest.surroundings.caller("admin", project="other")
    stub = data_service_pb2_grpc.DataServiceStub(ingest.replicas[0].channel)
    get = data_service_pb2.GetIngestionRecipeVersionRequest(name=f"{RECIPE}/versions/1")
    with pytest.raises(NotFound):
        await stranger.unary(stub.GetIngestionRecipeVersion, get, data_service_pb2.GetIngestionRecipeVersionResponse)
    listing = data_service_pb2.ListIngestionRecipeVersionsRequest(parent=RECIPE)
    with pytest.raises(NotFound):
        await stranger.unary(
            stub.ListIngestionRecipeVersions, listing, data_service_pb2.ListIngestionRecipeVersionsResponse
        )


async def test_the_client_reads_recipes_and_their_versions(ingest: DataIngest) -> None:
    await ingest.put_recipe()
    await ingest.put_recipe(system_prompt="Be brief.")
    address = {"data-ingest": f"127.0.0.1:{ingest.replicas[0].ports['grpc']}"}
    async with Mainspring.connect(address, token=ingest.token("viewer")) as mainspring:
        assert [(recipe.name, recipe.version) async for recipe in mainspring.data.recipes("p")] == [(RECIPE, 2)]
        versions = [version.name async for version in mainspring.data.recipe_versions(RECIPE)]
        assert versions == [f"{RECIPE}/versions/2", f"{RECIPE}/versions/1"]
        first = await mainspring.data.recipe_version(versions[1])
    assert first.ingestion_recipe.dataset == DATASET
    assert first.ingestion_recipe.columns == recipe_pb2.ColumnMapping(input_column="mr", target_column="ref")


async def test_the_command_line_lists_recipes_and_shows_what_apply_takes(
    ingest: DataIngest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await ingest.put_recipe()
    steps = [recipe_pb2.RecipeStep(length_filter=recipe_pb2.LengthFilter(min_words=2))]
    await ingest.put_recipe(steps=steps)
    monkeypatch.setenv("MAINSPRING_ADDRESS", f"data-ingest=127.0.0.1:{ingest.replicas[0].ports['grpc']}")
    monkeypatch.setenv("MAINSPRING_TOKEN", ingest.token("viewer"))

    async def printed(command: Callable[..., None], *arguments: str, json_: bool) -> str:
        await asyncio.to_thread(command, *arguments, project="p", json_=json_)
        return capsys.readouterr().out

    (listed,) = json.loads(await printed(cli.list_recipes, json_=True))
    assert (listed["name"], listed["version"]) == (RECIPE, 2)
    assert "length_filter" in await printed(cli.list_recipes, json_=False)
    shown = json.loads(await printed(cli.show, "r", json_=True))
    assert [version["name"] for version in shown["versions"]] == [f"{RECIPE}/versions/2", f"{RECIPE}/versions/1"]
    first = json.loads(await printed(cli.show, "r/1", json_=True))
    assert (first["name"], first["ingestion_recipe"]["steps"]) == (f"{RECIPE}/versions/1", [])
    said = await printed(cli.show, "r/2", json_=False)
    document = yaml.safe_load(said[said.index("ingestion_recipe:") :])
    written = Configuration.parse({"project": "p", **document}).sections["ingestion_recipe"]
    assert isinstance(written, recipe_pb2.IngestionRecipe)
    assert list(written.steps) == [
        recipe_pb2.RecipeStep(
            length_filter=recipe_pb2.LengthFilter(min_words=2, part=recipe_pb2.TextPart.TEXT_PART_ANSWER)
        )
    ]
    assert (written.name, written.dataset) == (RECIPE, DATASET)


async def test_the_report_tells_how_near_rows_come_to_reference_examples_that_nothing_is_refused_for(
    ingest: DataIngest,
) -> None:
    await ingest.put_recipe(split=recipe_pb2.SplitShares(test_percent=100))
    wanted = await ingest.ingest(pairs(20))
    file = await ingest.upload(pairs(5, start=100), "wanted.jsonl")
    for reference, rows in (
        (recipe_pb2.ReferenceExamples(dataset_version=wanted.dataset_version), 20),
        (recipe_pb2.ReferenceExamples(file=file), 5),
    ):
        written = await ingest.put_recipe(dataset="projects/p/datasets/tuning", reference=reference)
        assert written.ingestion_recipe.reference == reference
        version = await ingest.version((await ingest.ingest(pairs(20))).dataset_version)
        assert (version.input_rows, sum(split.rows for split in version.splits)) == (20, 20)
        report = (await ingest.call("GetDatasetReport", name=version.name)).dataset_report
        assert report.after.diversity.alignment.reference_rows == rows
        assert report.after.diversity.alignment.reference_to_nearest > 0
    for reference in (
        recipe_pb2.ReferenceExamples(),
        recipe_pb2.ReferenceExamples(file=file, dataset_version=wanted.dataset_version),
    ):
        with pytest.raises(InvalidInput):
            await ingest.put_recipe(reference=reference)


async def test_f8_recipes_from_before_get_their_first_version_which_nobody_changes(database_for: DatabaseFor) -> None:
    """The statements of revision 0006, on a recipe as revision 0005 kept it."""
    revision = import_module("mainspring_data_ingest.migrations.0006_recipe_versions")
    database = await database_for("mainspring_data_ingest")
    body = (
        '{"name": "projects/p/ingestionRecipes/r", "dataset": "projects/p/datasets/d", "system_prompt": "s",'
        ' "columns": {"input_column": "mr", "target_column": "ref"}}'
    )
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "INSERT INTO ingestion_recipe (name, parent, sort_key, body)"
                " VALUES (:name, 'projects/p', :name, cast(:body AS jsonb))"
            ),
            {"name": RECIPE, "body": body},
        )
        await connection.execute(text(revision.KNOWN_RECIPES))
        await connection.execute(text(revision.FIRST_VERSIONS))
        recipe = await tables.recipes(database).get(RECIPE)
        version = await tables.recipe_versions(database).get(f"{RECIPE}/versions/1")
    assert recipe is not None
    assert version is not None
    assert (recipe.value.version, version.value.recipe, version.value.create_time) == (
        1,
        recipe.value,
        recipe.update_time,
    )
    for statement in ("UPDATE {} SET body = body", "DELETE FROM {}", "TRUNCATE {}"):
        with pytest.raises(IntegrityError, match="kept for ever"):
            async with database.transaction() as connection:
                await connection.execute(text(statement.format("ingestion_recipe_version")))
