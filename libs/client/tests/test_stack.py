"""The local stack as people meet it: the real command, real NATS and Postgres, and two tiny services."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import psutil
from nats.aio.client import Client

from mainspring_client.stack import component, credentials, leftovers
from mainspring_client.stack.postgres import postgres_component
from mainspring_client.stack.state import Health
from mainspring_eventkit import topology
from mainspring_svckit.auth import TokenVerifier
from mainspring_testkit.waiting import eventually

if TYPE_CHECKING:
    from conftest import Stack


async def test_up_starts_everything_and_down_leaves_nothing(stack: Stack) -> None:
    (stack.own("alpha") / "child").touch()
    up = await stack.up()
    assert up.status == 0, up.err
    assert "data" in up.out
    shown = (await stack.run("status", "--json")).json
    assert {"gateway", "console", "nats", "postgres", "triton", "services"} <= set(shown)
    assert set(shown["services"]) == {"alpha", "beta"}
    assert shown["ready"]
    assert {name: process["state"] for name, process in shown["processes"].items()} == dict.fromkeys(
        ["nats", "postgres", "alpha", "beta"], "ready"
    )
    assert all(process["memory_bytes"] > 0 for process in shown["processes"].values())
    for_people = await stack.run("status")
    assert for_people.status == 0
    assert "alpha" in for_people.out

    again = await stack.up()
    assert (again.status, "runs" in again.err) == (0, True)
    assert (await stack.run("status", "--json")).json["supervisor_pid"] == shown["supervisor_pid"]

    logs = await stack.run("logs", "alpha")
    assert "serving" in logs.out
    assert (await stack.run("logs", "gamma")).status == 1

    # What alpha started by itself, outside its process group, goes too.
    assert len(leftovers.marked(stack.folder)) >= 5
    down = await stack.run("down")
    assert down.status == 0
    assert stack.processes() == []
    assert (await stack.run("status")).status == 1
    gone = await stack.run("status", "--json")
    assert (gone.status, gone.json["ready"], gone.json["phase"]) == (1, False, "stopped")


async def test_a9_secrets_are_for_the_owner_only_and_on_no_command_line(stack: Stack) -> None:
    assert (await stack.up()).status == 0
    secrets = [
        stack.folder.admin_token,
        stack.folder.subscriber_url,
        stack.folder.issuer / "issuer.json",
        stack.folder.component("nats") / "nats.conf",
        *(path for path in stack.folder.secrets.rglob("*") if path.is_file()),
    ]
    assert len(secrets) >= 11
    for path in secrets:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    texts = {path.read_text().strip() for path in secrets if path.parent != stack.folder.secrets}
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        assert not any(text in line for text in texts if len(text) < 2000), line.split(" ")[0]
    for process in leftovers.marked(stack.folder):
        assert not any(text in str(process.environ()) for text in texts if len(text) < 2000), process
    token = await stack.run("token", "create", "-p", "demo", "--role", "viewer", "--subject", "ann")
    principal = TokenVerifier.from_file(stack.folder.jwks, "mainspring-local").verify(token.out.strip())
    assert (principal.subject, principal.projects, principal.roles) == ("ann", {"demo"}, {"viewer"})
    assert (await stack.run("token", "create", "-p", "demo", "--role", "service")).status == 2
    assert (await stack.run("token", "create", "--role", "viewer")).status == 2


async def test_f1_f3_f6_whatever_is_killed_comes_back_with_what_it_knew(stack: Stack) -> None:
    assert (await stack.up()).status == 0
    processes = stack.state.processes
    os.kill(processes["alpha"].pid, signal.SIGKILL)
    await stack.restarted("alpha", processes["alpha"].pid)
    assert stack.state.processes["alpha"].restarts == 1
    assert any("alpha was killed by signal 9" in notice.text for notice in stack.state.notices)

    url = _admin_url(stack)
    await _publish(url)
    os.kill(processes["nats"].pid, signal.SIGKILL)
    _wipe_consumers(stack)
    await stack.restarted("nats", processes["nats"].pid)
    assert await _messages(url) == 1
    for spec in topology.load().consumers.values():
        await _verify(url, spec)

    database = (stack.folder.secrets / "beta" / "database_url").read_text()
    await _execute(database, "CREATE TABLE kept (x int)")
    os.kill(processes["postgres"].pid, signal.SIGKILL)
    await stack.restarted("postgres", processes["postgres"].pid)
    await _execute(database, "SELECT * FROM kept")
    assert {p.name: p.health for p in stack.state.processes.values()} == dict.fromkeys(
        ["nats", "postgres", "alpha", "beta"], Health.READY
    )


async def test_a_killed_supervisor_is_cleaned_up_after_by_up_and_by_down(stack: Stack) -> None:
    assert (await stack.up()).status == 0
    before = stack.state
    database = (stack.folder.secrets / "alpha" / "database_url").read_text()
    await _execute(database, "CREATE TABLE kept (x int)")
    os.kill(before.supervisor_pid, signal.SIGKILL)
    await eventually(_gone(before.supervisor_pid), what="the supervisor to be gone")
    left = await stack.run("status")
    assert left.status == 1
    assert "alpha" in left.err

    assert (await stack.up()).status == 0
    after = stack.state
    assert any("left running" in notice.text for notice in after.notices)
    assert after.ports == before.ports
    assert not any(process.alive for process in before.processes.values())
    await _execute(database, "SELECT * FROM kept")

    os.kill(after.supervisor_pid, signal.SIGKILL)
    await eventually(_gone(after.supervisor_pid), what="the supervisor to be gone")
    assert len(stack.processes()) >= 4
    down = await stack.run("down")
    assert (down.status, "left running" in down.out) == (0, True)
    assert stack.processes() == []


async def test_a_service_that_keeps_failing_is_named_with_its_log_and_tried_on(stack: Stack) -> None:
    (stack.own("beta") / "fail").touch()
    (stack.own("alpha") / "unready").touch()
    up = await stack.up()
    assert up.status == 1
    assert "STACK_NOT_READY" in up.err
    assert "beta is failing" in up.err
    assert "this service was told to fail" in up.err
    assert "alpha is starting: model: not loaded" in up.err
    assert stack.state.processes["beta"].restarts >= 5
    (stack.own("beta") / "fail").unlink()
    (stack.own("alpha") / "unready").unlink()

    async def ready() -> bool:
        return stack.state.ready

    await eventually(ready, within_s=30, what="both to be ready")
    (stack.own("alpha") / "unready").touch()

    async def unready() -> bool:
        alpha = stack.state.processes["alpha"]
        return alpha.health is Health.UNREADY and alpha.detail == "model: not loaded"

    await eventually(unready, what="alpha to be unready")


async def test_two_starts_at_once_make_one_stack(stack: Stack) -> None:
    first, second = await asyncio.gather(stack.up(), stack.up())
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert len(set(stack.processes())) == 1 + 4 + len(leftovers.marked(stack.folder))


async def test_ports_are_kept_fixed_or_replaced_and_settings_are_kept(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        wanted = free.getsockname()[1]
        refused = await stack.up("--nats-port", str(wanted))
    assert refused.status == 1
    assert "PORT_TAKEN" in refused.err
    up = await stack.up("--nats-port", str(wanted), "--set", "alpha.Colour=blue", "--set", "beta.x=1")
    assert up.status == 0, up.err
    kept = stack.state.ports
    assert kept["nats"] == wanted
    assert _environment(stack, "alpha")["MAINSPRING_COLOUR"] == "blue"
    assert (await stack.run("down")).status == 0
    with socket.create_server(("127.0.0.1", kept["alpha"])):
        again = await stack.up("--set", "beta.x=")
    assert again.status == 0
    assert f"port {kept['alpha']} of alpha is taken" in again.err
    assert {n: p for n, p in stack.state.ports.items() if n != "alpha"} == {
        n: p for n, p in kept.items() if n != "alpha"
    }
    assert _environment(stack, "alpha")["MAINSPRING_COLOUR"] == "blue"
    assert "MAINSPRING_X" not in _environment(stack, "beta")


async def test_f20_in_the_foreground_it_stops_with_its_process(stack: Stack) -> None:
    process = await stack.in_the_foreground()

    async def ready() -> bool:
        return stack.state.ready

    await eventually(ready, within_s=40, what="the stack to be ready")
    assert stack.state.supervisor_pid == process.pid
    process.terminate()
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert b"stopped" in out
    assert stack.processes() == []


def _admin_url(stack: Stack) -> str:
    password = credentials.bus_password(stack.folder, "admin")
    return f"nats://admin:{password}@127.0.0.1:{stack.state.ports['nats']}"


async def _connected(url: str) -> Client:
    client = Client()
    await client.connect(url, allow_reconnect=False)
    return client


async def _publish(url: str) -> None:
    client = await _connected(url)
    await client.jetstream().publish("mainspring.events.p.alpha.x", b"{}")
    await client.close()


async def _messages(url: str) -> int:
    client = await _connected(url)
    info = await client.jetstream().stream_info(topology.EVENTS_STREAM)
    await client.close()
    return info.state.messages


async def _verify(url: str, spec: topology.ConsumerSpec) -> None:
    client = await _connected(url)
    await topology.verify(client.jetstream(), spec)
    await client.close()


def _wipe_consumers(stack: Stack) -> None:
    """What a lost disk block would take: the consumers' own state."""
    import shutil

    for folder in (stack.folder.component("nats") / "jetstream").rglob("obs"):
        shutil.rmtree(folder)


async def _execute(url: str, statement: str) -> None:
    connection: Any = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _gone(pid: int) -> Any:
    async def gone() -> bool:
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE

    return gone


def _environment(stack: Stack, name: str) -> dict[str, str]:
    return psutil.Process(stack.state.processes[name].pid).environ()


async def test_postgres_starts_in_a_folder_that_is_its_owners_alone() -> None:
    with tempfile.TemporaryDirectory() as private, socket.socket() as free:
        folder = Path(private)
        folder.chmod(stat.S_IRWXU)
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        free.close()
        running = await component.start(postgres_component(folder / "postgres", port, "secret"))
        try:
            await running.wait_ready()
        finally:
            await running.stop()
        assert not folder.stat().st_mode & (stat.S_IRGRP | stat.S_IWGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IWOTH)
