"""`datasets recipes list | show`: how records become rows, and what that was before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project, group

if TYPE_CHECKING:
    from mainspring.data.v1 import recipe_pb2
    from mainspring_client.client import Mainspring

recipes = group("Ingestion recipes: how records become rows. Each change of one is its next version.")


def register(datasets: typer.Typer) -> None:
    """Adds the group."""
    datasets.add_typer(recipes, name="recipes")


@recipes.command("list")
def list_recipes(project: Project = DEFAULT_PROJECT, limit: Limit = 50, data: Data = None, json_: Json = False) -> None:
    """Lists ingestion recipes by name."""
    from mainspring_client.cli.output import print_json, print_table, short, when
    from mainspring_client.cli.run import collect, with_client

    found = with_client(data, lambda mainspring: collect(mainspring.data.recipes(project), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "recipe": lambda r: short(r.name),
            "newest": lambda r: r.version or "",
            "dataset": lambda r: short(r.dataset),
            "steps": _steps,
            "written": lambda r: when(r.update_time),
        },
        f"no ingestion recipes in {project}; 'mainspring datasets import' and 'mainspring apply' write them",
    )


@recipes.command()
def show(
    recipe: Annotated[str, typer.Argument(help="RECIPE for how it stands and its versions, RECIPE/VERSION for one.")],
    project: Project = DEFAULT_PROJECT,
    limit: Limit = 20,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Shows what a recipe says, as 'mainspring apply' takes it, and its versions, newest first."""
    from mainspring_client.cli.output import print_json, print_table, when
    from mainspring_client.cli.run import collect, with_client
    from mainspring_client.resources import expand_version
    from mainspring_svckit.names import IngestionRecipeName, IngestionRecipeVersionName

    name = expand_version(IngestionRecipeName, project, recipe)
    if IngestionRecipeVersionName.matches(name):
        version = with_client(data, lambda mainspring: mainspring.data.recipe_version(name))
        if json_:
            print_json(version)
        else:
            _print(version.ingestion_recipe, version.recipe_sha256, when(version.create_time))
        return

    async def body(
        mainspring: Mainspring,
    ) -> tuple[recipe_pb2.IngestionRecipe, list[recipe_pb2.IngestionRecipeVersion]]:
        return await mainspring.data.recipe(name), await collect(mainspring.data.recipe_versions(name), limit)

    current, versions = with_client(data, body)
    if json_:
        print_json({"ingestion_recipe": current, "versions": versions})
        return
    _print(current, versions[0].recipe_sha256 if versions else "", when(current.update_time))
    print()
    print_table(
        versions,
        {
            "version": lambda v: v.ingestion_recipe.version,
            "steps": lambda v: _steps(v.ingestion_recipe),
            "digest": lambda v: v.recipe_sha256[:12],
            "written": lambda v: when(v.create_time),
        },
        "an older release wrote it; its next change is its first version",
    )


def _print(recipe: recipe_pb2.IngestionRecipe, digest: str, written: str) -> None:
    import yaml
    from google.protobuf import json_format

    from mainspring_client.cli.output import print_fields, printable
    from mainspring_client.resources import without_output_only
    from mainspring_svckit.names import DatasetName, IngestionRecipeName

    print_fields({"recipe": recipe.name, "version": recipe.version or "", "digest": digest, "written": written})
    said = json_format.MessageToDict(without_output_only(recipe), preserving_proto_field_name=True)
    del said["name"]
    said = {
        "id": IngestionRecipeName.parse(recipe.name).recipe,
        **said,
        "dataset": DatasetName.parse(recipe.dataset).dataset,
    }
    print()
    print(printable(yaml.safe_dump({"ingestion_recipe": said}, sort_keys=False, allow_unicode=True)), end="")


def _steps(recipe: recipe_pb2.IngestionRecipe) -> str:
    return ", ".join(step.WhichOneof("step") or "?" for step in recipe.steps) or "none"
