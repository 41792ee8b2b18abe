"""Every run that the training guide asks for, as far as the trainer looks at it before anything is computed."""

from __future__ import annotations

import asyncio
import shlex
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support import pages
from typer.testing import CliRunner

from mainspring.data.v1 import dataset_pb2
from mainspring.registry.v1 import model_pb2
from mainspring.training.v1 import recipe_pb2, run_pb2
from mainspring_client.cli.application import app
from mainspring_svckit.validation import validate
from mainspring_trainer.domain.recipes import Method, TeacherSource, TuningRecipe
from mainspring_trainer.transport.recipes import recipe_from_proto

GUIDE = (pages.ROOT / "docs" / "guides" / "training.md").read_text()
BASE = "projects/demo/models/smollm2/versions/1"


class Plane:
    """Keeps the recipe that is written, and what the run begins with; every model has one version."""

    def __init__(self) -> None:
        self.written = recipe_pb2.TuningRecipe()
        self.parent = ""

    @property
    def client(self) -> Any:
        return SimpleNamespace(apply=self.apply, data=self, registry=self, training=self)

    async def apply(self, configuration: Any) -> None:
        self.written = configuration.sections["tuning_recipe"]

    async def dataset(self, name: str) -> dataset_pb2.Dataset:
        return dataset_pb2.Dataset(name=name, latest_version=f"{name}/versions/1")

    async def model(self, name: str) -> model_pb2.Model:
        return model_pb2.Model(name=name, latest_version=f"{name}/versions/1")

    async def version(self, name: str) -> model_pb2.ModelVersion:
        name = name.replace("@champion", "/versions/1")
        return model_pb2.ModelVersion(name=name, base_model_version=BASE)

    async def start(self, recipe: str, dataset_version: str, *, parent_model_version: str = "") -> run_pb2.TrainingRun:
        self.parent = parent_model_version
        return run_pb2.TrainingRun(name="projects/demo/trainingRuns/r")


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> dict[str, TuningRecipe]:
    """The guide's recipes by id, each checked as the trainer checks it."""
    plane, found = Plane(), dict[str, TuningRecipe]()
    monkeypatch.setattr("mainspring_client.cli.run.with_client", lambda data, body: asyncio.run(body(plane.client)))
    lines = [
        line for block in pages.blocks(GUIDE, "sh", ()) for line in block.splitlines() if "mainspring train" in line
    ]
    for line in lines:
        _, *arguments = shlex.split(line)
        plane.parent = ""
        result = CliRunner().invoke(app, [*arguments, "--detach"], catch_exceptions=False)
        assert result.exit_code == 0, (line, result.output)
        validate(plane.written)
        recipe = recipe_from_proto(plane.written)
        recipe.check()
        assert recipe.base_model_version == (
            BASE if recipe.method is not Method.EMBEDDING else BASE.replace("smollm2", "minilm")
        )
        assert bool(plane.parent) == ("--from " in line)
        # What a run may begin with has a recipe of the same shape: the guide changes no rank.
        assert recipe.lora.rank == 16
        name = recipe.name.rpartition("/")[2]
        assert name not in found, f"{line} would write over another run's recipe"
        found[name] = recipe
    return found


def test_each_route_of_the_guide_is_a_recipe_that_the_trainer_takes(recipes: dict[str, TuningRecipe]) -> None:
    by_method = {recipe.method for recipe in recipes.values()}
    left_out = {Method.IPO, Method.ORPO, Method.CONTINUED_PRETRAINING}
    assert by_method == set(Method) - left_out


def test_rewards_come_from_a_rule_a_reward_model_and_a_judge(recipes: dict[str, TuningRecipe]) -> None:
    online = [recipe.online for recipe in recipes.values() if recipe.method.learns_rewards]
    sources = [(bool(o.rule), bool(o.reward_model_version), bool(o.judge_model_version)) for o in online]
    assert sorted(sources, reverse=True) == [(True, False, False), (False, True, False), (False, False, True)]
    # The reward model is what the line above has made.
    made = f"{recipes['summaries-marks-reward-model'].model}/versions/1"
    assert [o.reward_model_version for o in online if o.reward_model_version] == [made]


def test_a_teacher_is_learned_from_in_three_ways(recipes: dict[str, TuningRecipe]) -> None:
    taught = [r.distillation for r in recipes.values() if r.method is Method.DISTILLATION]
    assert [(one.source, one.on_policy_share) for one in taught] == [
        (TeacherSource.LOGITS, 0),
        (TeacherSource.LOGITS, 0.5),
        (TeacherSource.ANSWERS, 0),
    ]
