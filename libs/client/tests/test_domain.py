"""What needs no process: ports, waits, state, names, configuration, tables."""

import json
import random
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from mainspring.data.v1 import recipe_pb2
from mainspring.training.v1 import recipe_pb2 as tuning_pb2
from mainspring_client import configuration, rows
from mainspring_client.cleaning import steps_of
from mainspring_client.cli.output import printable, short
from mainspring_client.connection import Endpoints
from mainspring_client.resources import expand, expand_model, without_output_only
from mainspring_client.stack import credentials, ports
from mainspring_client.stack.folder import DataFolder, rotate, write_private
from mainspring_client.stack.services import SERVICES, load_table
from mainspring_client.stack.state import Health, Phase, ProcessState, StackState
from mainspring_client.stack.supervised import Backoff
from mainspring_client.studies import parameter
from mainspring_svckit.auth import TokenVerifier
from mainspring_svckit.errors import InvalidInput, PreconditionFailed
from mainspring_svckit.names import DatasetVersionName, ModelName

FLYWHEEL: dict[str, Any] = {
    "project": "demo",
    "ingestion_recipe": {
        "id": "summaries",
        "dataset": "summaries",
        "columns": {"input_column": "code", "target_column": "summary"},
    },
    "tuning_recipe": {
        "id": "summaries",
        "dataset": "summaries",
        "base_model_version": "smollm2/1",
        "model": "summaries",
        "method": "METHOD_SUPERVISED",
        "optimization": {"epochs": 2},
    },
    "evaluation_suite": {"id": "summaries", "model": "summaries", "scorers": ["rouge_l", "bleu"]},
    "release_policy": {
        "id": "summaries",
        "model": "summaries",
        "evaluation_suite": "summaries",
        "primary_scorer": "rouge_l",
    },
    "rollout_policy": {"id": "summaries", "model": "summaries", "step_percents": [10, 100], "max_step_wait": "60s"},
    "retraining_trigger": {"id": "t", "model": "summaries", "ingestion_recipe": "summaries", "min_items": 5},
}


def flywheel(**changes: Any) -> dict[str, Any]:
    return {**FLYWHEEL, **changes}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_waits_before_a_restart_double_up_to_thirty_seconds_and_begin_anew_after_health() -> None:
    backoff = Backoff(Clock())
    assert [backoff.ended(0) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.ended(60) == 0.5


def test_five_ends_within_two_minutes_are_failing_and_older_ones_are_not() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    for number in range(5):
        assert not backoff.failing
        backoff.ended(0)
        clock.now += 10
        assert backoff.failing == (number == 4)
    clock.now += 100
    assert not backoff.failing


def test_kept_ports_stay_and_a_taken_one_is_replaced_with_a_notice() -> None:
    first, notices = ports.allocate(["a", "b"], {}, {})
    assert notices == []
    assert len(set(first.values())) == 2
    with socket.create_server(("127.0.0.1", first["a"])):
        second, notices = ports.allocate(["a", "b"], first, {})
    assert second["b"] == first["b"]
    assert second["a"] != first["a"]
    assert len(notices) == 1
    assert str(first["a"]) in notices[0]


def test_a_fixed_port_is_taken_or_refused() -> None:
    free, _ = ports.allocate(["a"], {}, {})
    assert ports.allocate(["a"], {}, free)[0] == free
    with socket.create_server(("127.0.0.1", free["a"])), pytest.raises(PreconditionFailed) as caught:
        ports.allocate(["a"], {}, free)
    assert caught.value.reason == "PORT_TAKEN"
    with pytest.raises(PreconditionFailed) as caught:
        ports.allocate(["a"], {}, {"nats": 5})
    assert caught.value.reason == "PORT_NAME_UNKNOWN"


def test_the_state_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    state = StackState(phase=Phase.RUNNING, ports={"nats": 1}, addresses={"services": {"registry": "h:1"}})
    state.processes["nats"] = ProcessState("nats", Health.READY, 12, 3.5, 2, "detail")
    for number in range(60):
        state.add_notice(str(number))
    state.save(tmp_path / "state.json")
    assert StackState.load(tmp_path / "state.json") == state
    assert [notice.text for notice in state.notices] == [str(number) for number in range(10, 60)]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"'])
def test_a_broken_state_file_is_a_stack_that_never_ran(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    assert StackState.load(tmp_path / "state.json") == StackState()


def test_a_process_of_the_same_id_that_started_later_is_another(tmp_path: Path) -> None:
    del tmp_path
    import os

    import psutil

    ours = psutil.Process().create_time()
    assert ProcessState("x", pid=os.getpid(), create_time=ours).alive
    assert not ProcessState("x", pid=os.getpid(), create_time=ours - 100).alive


def test_secrets_are_made_once_and_only_for_the_owner(tmp_path: Path) -> None:
    folder = DataFolder.at(tmp_path / "data")
    folder.prepare()
    first = credentials.passwords(folder, ["registry"], ["admin"])
    second = credentials.passwords(folder, ["registry", "trainer"], ["admin"])
    assert second.databases["registry"] == first.databases["registry"]
    assert second.bus == first.bus
    issuer = credentials.issuer(folder)
    credentials.ensure_admin_token(folder, issuer)
    token = folder.admin_token.read_text()
    credentials.ensure_admin_token(folder, issuer)
    assert folder.admin_token.read_text() == token
    given = credentials.give(folder, "registry", issuer, nats_url="nats://secret")
    assert set(given) == {"MAINSPRING_NATS_URL_FILE", "MAINSPRING_SERVICE_TOKEN_FILE"}
    principal = TokenVerifier.from_file(folder.jwks, "mainspring-local").verify(token.strip())
    assert (principal.subject, principal.roles, principal.projects) == ("admin", {"admin"}, {"*"})
    secret_files = [
        folder.secrets / "passwords.json",
        folder.admin_token,
        folder.issuer / "issuer.json",
        *map(Path, given.values()),
    ]
    assert [stat.S_IMODE(path.stat().st_mode) for path in secret_files] == [0o600] * 5
    assert stat.S_IMODE(folder.secrets.stat().st_mode) == 0o700


def test_a_private_file_is_private_even_where_an_open_one_lay(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)


def test_a_large_log_is_put_aside_and_one_old_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    rotate(path)
    path.write_bytes(b"small")
    rotate(path)
    assert path.exists()
    with path.open("wb") as file:
        file.truncate((16 << 20) + 1)
    (tmp_path / "x.log.1").write_text("older")
    rotate(path)
    assert not path.exists()
    assert (tmp_path / "x.log.1").stat().st_size > 16 << 20


def test_each_service_has_its_own_part_of_the_bus() -> None:
    areas = [spec.area for spec in SERVICES if spec.area]
    assert len(areas) == len(set(areas)) == 7
    assert len(SERVICES) == 9


def test_a_table_of_services_that_is_none_is_refused(tmp_path: Path) -> None:
    for text in ("{", '{"name": "x"}', '[{"nam": "x"}]', "[1]"):
        (tmp_path / "t.json").write_text(text)
        with pytest.raises(InvalidInput):
            load_table(tmp_path / "t.json")
    (tmp_path / "t.json").write_text(json.dumps([{"name": "x", "command": ["sleep", "1"]}]))
    assert load_table(tmp_path / "t.json")[0].command == ("sleep", "1")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("summaries", "projects/p/models/summaries"),
        ("summaries/3", "projects/p/models/summaries/versions/3"),
        ("summaries@champion", "projects/p/models/summaries@champion"),
        ("projects/q/models/m", "projects/q/models/m"),
    ],
)
def test_models_are_named_shortly(text: str, name: str) -> None:
    assert expand_model("p", text) == name


@pytest.mark.parametrize("text", ["", "A", "a/", "a/b/c", "/a", "..", "a b"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        expand_model("p", text)
    with pytest.raises(InvalidInput):
        expand(ModelName, "p", text)


def test_names_of_another_kind_are_refused() -> None:
    assert expand(DatasetVersionName, "p", "d/2") == "projects/p/datasets/d/versions/2"
    with pytest.raises(InvalidInput):
        expand(DatasetVersionName, "p", "projects/p/datasets/d")


def test_the_configuration_becomes_messages_with_whole_names() -> None:
    parsed = configuration.Configuration.parse(FLYWHEEL)
    assert list(parsed.sections) == [
        "ingestion_recipe",
        "tuning_recipe",
        "evaluation_suite",
        "release_policy",
        "rollout_policy",
        "retraining_trigger",
    ]
    recipe = parsed.sections["tuning_recipe"]
    assert isinstance(recipe, tuning_pb2.TuningRecipe)
    assert recipe.name == "projects/demo/tuningRecipes/summaries"
    assert recipe.base_model_version == "projects/demo/models/smollm2/versions/1"
    assert recipe.model == "projects/demo/models/summaries"
    assert recipe.optimization.epochs == 2


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        ([], {""}),
        ({}, {"project"}),
        ({"project": "Demo"}, {"project"}),
        (flywheel(extra={}), {"extra"}),
        (flywheel(tuning_recipe=[1]), {"tuning_recipe"}),
        (flywheel(tuning_recipe={"dataset": "d"}), {"tuning_recipe.id"}),
        (flywheel(ingestion_recipe={"id": "a", "name": "a"}), {"ingestion_recipe.id"}),
        (
            flywheel(ingestion_recipe={"id": "a", "datset": "a", "columns": {"input_colum": "x"}}, extra=1),
            {"extra", "ingestion_recipe.datset", "ingestion_recipe.columns.input_colum"},
        ),
        (flywheel(evaluation_suite={"id": "a", "model": "m/2"}), {"evaluation_suite.model"}),
        (flywheel(evaluation_suite={"id": "projects/other/evaluationSuites/a"}), {"evaluation_suite.id"}),
        (flywheel(tuning_recipe={"id": "a", "method": "METHOD_MAGIC"}), {"tuning_recipe"}),
    ],
)
def test_a_wrong_configuration_names_every_wrong_key(document: Any, fields: set[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        configuration.Configuration.parse(document)
    assert {violation.field for violation in caught.value.violations} == fields
    assert caught.value.reason == "CONFIGURATION_INVALID"


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"project: [", b"project: a\nproject: b", b"project: !!python/name:os.system", b"&a [*a]"]
)
def test_b3_a_file_that_is_not_plain_yaml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "flywheel.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidInput):
        configuration.Configuration.load(path)
    with pytest.raises(InvalidInput):
        configuration.Configuration.load(tmp_path / "missing.yaml")


def test_what_only_the_server_writes_does_not_count_as_a_difference() -> None:
    recipe = recipe_pb2.IngestionRecipe(name="n", dataset="d", etag="7")
    recipe.update_time.GetCurrentTime()
    assert without_output_only(recipe) == recipe_pb2.IngestionRecipe(name="n", dataset="d")


def test_addresses_are_read_from_one_or_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Endpoints.find("host:1", token="t").services == {"*": "host:1"}
    many = Endpoints.find("registry=a:1, inference=b:2", token="t")
    assert many.services == {"registry": "a:1", "inference": "b:2"}
    assert "t" not in repr(Endpoints.find("a:1", token="t", nats_url="t")).replace("token", "").replace("Endpoints", "")
    with pytest.raises(InvalidInput):
        Endpoints.find("registri=a:1", token="t")
    monkeypatch.delenv("MAINSPRING_TOKEN", raising=False)
    with pytest.raises(PreconditionFailed) as caught:
        Endpoints.find("a:1")
    assert caught.value.reason == "TOKEN_MISSING"


def test_a_sample_holds_whole_groups_and_is_the_same_whatever_the_order(tmp_path: Path) -> None:
    pairs = [(f"in {number % 40}", f'out, "{number}"\nline') for number in range(200)]
    chosen: list[set[str]] = []
    for turn in range(2):
        random.Random(turn).shuffle(pairs)
        source, target = tmp_path / "all.csv", tmp_path / "some.csv"
        import csv

        with source.open("w", newline="") as file:
            csv.writer(file).writerows([("mr", "ref"), *pairs])
        assert rows.sample(source, target, 50, "mr") == 50
        with target.open(newline="") as file:
            found = list(csv.DictReader(file))
        groups = {row["mr"] for row in found}
        assert len(found) == 50
        assert [(r["mr"], r["ref"]) for r in found] == [pair for pair in pairs if pair[0] in groups]
        chosen.append(groups)
    assert chosen[0] == chosen[1]


def test_b9_a_sample_keeps_lines_that_cannot_be_read_for_data_ingest_to_judge(tmp_path: Path) -> None:
    source, target = tmp_path / "all.jsonl", tmp_path / "some.jsonl"
    source.write_text('{"a": "x"}\nnot json\n\n{"b": 1}\n[1]\n')
    assert rows.sample(source, target, 100, "a") == 4
    assert target.read_text() == '{"a": "x"}\nnot json\n{"b": 1}\n[1]\n'
    source.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput):
        rows.sample(source, target, 100, "a")


def test_b10_control_characters_do_not_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\x00\tc\n") == "a\\x1b[31mb\\x00\tc\n"


def test_names_are_shown_as_commands_take_them() -> None:
    assert short("projects/p/models/m/versions/3") == "m/3"
    assert short("projects/p/models/m") == "m"
    assert short("projects/p") == "projects/p"


def test_steps_of_a_recipe_may_name_resources_shortly() -> None:
    steps = steps_of(clean=True, languages=["en"], keep_out=[{"dataset_version": "held-out/2"}])
    section = {"id": "r", "dataset": "d", "columns": {"messages_column": "messages"}, "steps": steps}
    parsed = configuration.Configuration.parse({"project": "p", "ingestion_recipe": section})
    recipe = parsed.sections["ingestion_recipe"]
    assert isinstance(recipe, recipe_pb2.IngestionRecipe)
    kinds = [step.WhichOneof("step") for step in recipe.steps]
    assert kinds.index("personal_data") < kinds.index("decontamination") < kinds.index("near_duplicates")
    leak = recipe.steps[kinds.index("decontamination")].decontamination
    assert leak.dataset_version == "projects/p/datasets/held-out/versions/2"
    for wrong in ({"dataset_version": "held-out"}, {"dataset_version": "projects/q/datasets/d/versions/1"}):
        section["steps"] = [{"decontamination": wrong}]
        with pytest.raises(InvalidInput) as caught:
            configuration.Configuration.parse({"project": "p", "ingestion_recipe": section})
        assert caught.value.violations[0].field == "ingestion_recipe.steps[0].decontamination.dataset_version"


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("optimization.learning_rate=1e-4..1e-2:log", {"double_range": {"low": 1e-4, "high": 1e-2, "log": True}}),
        ("lora.dropout=0.0..0.5", {"double_range": {"high": 0.5}}),
        ("lora.rank=4..32", {"int_range": {"low": "4", "high": "32"}}),
        ("lora.rank=4,8", {"choices": {"values": ["4", "8"]}}),
        ("start_from=BASE,CHAMPION", {"choices": {"values": ['"BASE"', '"CHAMPION"']}}),
    ],
)
def test_what_a_search_varies_is_read(text: str, domain: dict[str, object]) -> None:
    read = json_format.MessageToDict(parameter(text), preserving_proto_field_name=True)
    assert read == {"path": text.partition("=")[0], **domain}


@pytest.mark.parametrize(
    "text", ["lora.rank", "lora.rank=", "lora.rank=4", "lora.rank=a..b", "lora.rank=4..", "=..:log"]
)
def test_b1_what_cannot_be_varied_so_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"LOW\.\.HIGH"):
        parameter(text)
