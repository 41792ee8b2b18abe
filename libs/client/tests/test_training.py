"""`train` and `runs start`: the recipe that options make, and the run that is asked for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from mainspring.data.v1 import dataset_pb2
from mainspring.registry.v1 import model_pb2
from mainspring.training.v1 import recipe_pb2, run_pb2
from mainspring_client.cli.application import app
from mainspring_client.configuration import with_settings
from mainspring_svckit.errors import InvalidInput

RUN = "projects/p/trainingRuns/r"


class Plane:
    """Keeps what is written and asked for; its dataset has three versions, its models two."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.started: list[tuple[str, str]] = []
        self.begun_with: list[str] = []
        self.read: list[str] = []

    @property
    def client(self) -> Any:
        return SimpleNamespace(apply=self.apply, data=self, registry=self, training=self)

    async def apply(self, configuration: Any) -> None:
        self.written.append(configuration.sections["tuning_recipe"])

    async def dataset(self, name: str) -> dataset_pb2.Dataset:
        return dataset_pb2.Dataset(name=name, latest_version=f"{name}/versions/3")

    async def model(self, name: str) -> model_pb2.Model:
        self.read.append(name)
        return model_pb2.Model(name=name, latest_version=f"{name}/versions/2")

    async def recipe(self, name: str) -> recipe_pb2.TuningRecipe:
        return recipe_pb2.TuningRecipe(name=name, dataset="projects/p/datasets/sums")

    async def version(self, name: str) -> model_pb2.ModelVersion:
        return model_pb2.ModelVersion(
            name=name.replace("@champion", "/versions/4"), base_model_version="projects/p/models/other/versions/7"
        )

    async def start(self, recipe: str, dataset_version: str, *, parent_model_version: str = "") -> run_pb2.TrainingRun:
        self.started.append((recipe, dataset_version))
        self.begun_with.append(parent_model_version)
        return run_pb2.TrainingRun(name=RUN)


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> Plane:
    made = Plane()
    monkeypatch.setattr("mainspring_client.cli.run.with_client", lambda data, body: asyncio.run(body(made.client)))
    return made


def said(*arguments: str) -> str:
    """What the command prints; its error is raised."""
    result = CliRunner().invoke(app, [*arguments, "--project", "p", "--detach"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def sets(*settings: str) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def test_train_sets_any_field_of_the_recipe_and_settings_win_over_options(plane: Plane) -> None:
    given = sets(
        "adaptation=ADAPTATION_QLORA",
        "lora.weight_decomposed=true",
        "lora.rank=32",
        "optimization.learning_rate=1e-4",
        "optimization.packing=true",
        "online.reward_model_version=marks/4",
        "checks.canaries=[the code is 1, '7']",
    )
    assert said("train", "sums", "--method", "grpo", "--rank", "8", "--max-steps", "5", *given) == RUN
    wanted = recipe_pb2.TuningRecipe(
        name="projects/p/tuningRecipes/sums-grpo",
        dataset="projects/p/datasets/sums",
        base_model_version="projects/p/models/smollm2/versions/2",
        model="projects/p/models/sums",
        method=recipe_pb2.TuningRecipe.METHOD_GRPO,
        start_from=recipe_pb2.TuningRecipe.START_FROM_BASE,
        adaptation=recipe_pb2.TuningRecipe.ADAPTATION_QLORA,
        lora=recipe_pb2.LoraConfig(rank=32, weight_decomposed=True),
        optimization=recipe_pb2.Optimization(learning_rate=1e-4, max_steps=5, packing=True),
        online=recipe_pb2.OnlineConfig(reward_model_version="projects/p/models/marks/versions/4"),
        checks=recipe_pb2.Checks(canaries=["the code is 1", "7"]),
    )
    assert plane.written == [wanted]
    assert plane.started == [(wanted.name, "projects/p/datasets/sums/versions/3")]


def test_a_base_that_is_set_is_the_base(plane: Plane) -> None:
    said("train", "sums", *sets("base_model_version=other/7"))
    assert plane.written[0].base_model_version == "projects/p/models/other/versions/7"
    assert plane.read == []


@pytest.mark.parametrize(
    ("setting", "field", "words"),
    [
        ("online.reward=marks/4", "tuning_recipe.online.reward", "is not known; there are generations"),
        ("packing=true", "tuning_recipe.packing", "is not known; there are name"),
        ("method.kind=x", "tuning_recipe", "method"),
        ("adaptation=QLORA", "tuning_recipe", "adaptation"),
        ("online.reward_model_version=marks", "tuning_recipe.online.reward_model_version", "is not like"),
        ("lora.rank", "set", "PATH=VALUE"),
        ("=8", "set", "PATH=VALUE"),
        ("lora..rank=8", "set", "PATH=VALUE"),
    ],
)
def test_b1_what_no_recipe_has_is_refused_before_anything_is_written(
    plane: Plane, setting: str, field: str, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        said("train", "sums", *sets(setting))
    assert [violation.field for violation in caught.value.violations] == [field]
    assert (plane.written, plane.started) == ([], [])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("0.5", 0.5),
        ("true", True),
        ("RULE_CONTAINS", "RULE_CONTAINS"),
        ("[a, 2]", ["a", 2]),
        ("Mark it: 5 is right", "Mark it: 5 is right"),
        ("a = b", "a = b"),
        ("{a", "{a"),
        ("2026-01-01", "2026-01-01"),
        ("", None),
    ],
)
def test_a_setting_is_a_scalar_or_a_list_of_yaml_and_else_text(text: str, value: Any) -> None:
    before = {"online": {"rule": "", "beta": 1}}
    assert with_settings(before, [f"online.rule={text}"]) == {"online": {"rule": value, "beta": 1}}
    assert before == {"online": {"rule": "", "beta": 1}}


@pytest.mark.parametrize(("dataset", "version"), [([], "3"), (["sums/1"], "1"), (["sums@latest"], "3")])
def test_a_recipe_that_is_there_is_run_as_it_stands(plane: Plane, dataset: list[str], version: str) -> None:
    assert said("runs", "start", "careful", *dataset) == RUN
    assert plane.started == [("projects/p/tuningRecipes/careful", f"projects/p/datasets/sums/versions/{version}")]
    assert plane.written == []


@pytest.mark.parametrize(("told", "version"), [("sums", "2"), ("sums/3", "3"), ("sums@champion", "4")])
def test_a_run_begins_with_the_version_that_is_named_and_on_its_base(plane: Plane, told: str, version: str) -> None:
    said("train", "sums", "--from", told)
    said("train", "sums", "--from", told, "--base", "mine/1")
    said("runs", "start", "careful", "--from", told)
    assert plane.begun_with == [f"projects/p/models/sums/versions/{version}"] * 3
    bases = [recipe.base_model_version for recipe in plane.written]
    assert bases == ["projects/p/models/other/versions/7", "projects/p/models/mine/versions/1"]


def test_a_run_begins_with_one_version(plane: Plane) -> None:
    result = CliRunner().invoke(app, ["train", "sums", "--from", "sums/3", "--from-champion"])
    assert result.exit_code == 2
    assert "leave one of them out" in result.output
    assert plane.started == []
