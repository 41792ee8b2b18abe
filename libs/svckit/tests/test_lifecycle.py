"""The whole process of a service: start, ports, readiness, signals, exit status."""

import asyncio
import json
import os
import signal
import sys
import textwrap
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from mainspring_svckit.auth import LocalIssuer
from mainspring_testkit.servers import PostgresServer
from mainspring_testkit.waiting import eventually

SERVICE = textwrap.dedent(
    """
    import asyncio
    from mainspring_svckit.lifecycle import Process, run_main
    from mainspring_svckit.settings import ServiceSettings

    async def work(mark):
        try:
            await asyncio.Event().wait()
        finally:
            print(mark, flush=True)

    async def dies():
        raise RuntimeError("a background task of the test")

    async def serve(process, settings):
        database = await process.database("mainspring_testkit.platform")
        process.listener("work")
        process.grpc_server(database)
        process.scratch(None)
        process.intake(work("INTAKE-STOPPED"), "intake")
        async def flush():
            print("FLUSHED", flush=True)
        process.support(work("SUPPORT-STOPPED"), "support", flush=flush)
        if settings.log_level == "debug":
            process.intake(dies(), "dies")
        return await process.run()

    run_main("test", "mainspring_testkit.platform", ServiceSettings, serve)
    """
)


class Service:
    def __init__(self, folder: Path, database_url: str, **settings: str) -> None:
        folder.mkdir(exist_ok=True)
        LocalIssuer.load_or_create(folder)
        (folder / "db-url").write_text(database_url)
        self.ports_file, self.scratch = folder / "ports.json", folder / "scratch"
        self.scratch.mkdir()
        self.env = {
            "PATH": os.environ["PATH"],
            "TMPDIR": str(self.scratch),
            "MAINSPRING_DATABASE_URL_FILE": str(folder / "db-url"),
            "MAINSPRING_AUTH_JWKS": str(folder / "jwks.json"),
            "MAINSPRING_PORTS_FILE": str(self.ports_file),
            "MAINSPRING_MIGRATE_ON_START": "true",
            **settings,
        }
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVICE, env=self.env, stdout=asyncio.subprocess.PIPE
        )

    async def ended(self) -> tuple[int, str]:
        assert self.process is not None
        out, _ = await asyncio.wait_for(self.process.communicate(), 20)
        assert self.process.returncode is not None
        return self.process.returncode, out.decode()

    async def ports(self) -> dict[str, int]:
        async def written() -> bool:
            return self.ports_file.exists()

        await eventually(written, within_s=20)
        return json.loads(self.ports_file.read_text())

    async def get(self, path: str) -> tuple[int, str]:
        port = (await self.ports())["ops"]

        def fetch() -> tuple[int, str]:
            try:
                with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                    return answer.status, answer.read().decode()
            except HTTPError as err:
                return err.code, err.read().decode()

        return await asyncio.to_thread(fetch)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_f20_a_signal_stops_the_service_in_order(
    postgres: PostgresServer, tmp_path: Path, number: signal.Signals
) -> None:
    service = Service(tmp_path / "s", await postgres.new_database())
    await service.start()

    async def ready() -> bool:
        return (await service.get("/readyz"))[0] == 200

    await eventually(ready, within_s=20, what="readiness")
    assert (await service.get("/livez"))[0] == 200
    assert "mainspring_rpc_duration_seconds" in (await service.get("/metrics"))[1]
    assert (await service.get("/other"))[0] == 404
    assert service.process is not None
    service.process.send_signal(number)
    status, out = await service.ended()
    assert status == 0
    marks = [line for line in out.splitlines() if line.isupper()]
    assert marks == ["INTAKE-STOPPED", "FLUSHED", "SUPPORT-STOPPED"]
    assert '"event": "service_stopped"' in out


async def test_i5_f9_what_a_killed_service_left_on_the_disk_goes_when_the_next_one_starts(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    service = Service(tmp_path / "s", await postgres.new_database())
    await service.start()
    await service.ports()
    (left,) = service.scratch.glob("mainspring-test-*")
    assert service.process is not None
    service.process.kill()
    await service.ended()
    os.utime(left, (0, 0))  # One that is seconds old may be about to be used.
    service.ports_file.unlink()
    await service.start()
    await service.ports()
    (own,) = service.scratch.glob("mainspring-test-*")
    assert own != left
    service.process.terminate()
    await service.ended()
    assert not own.exists()


async def test_a_background_task_that_dies_takes_the_service_down(postgres: PostgresServer, tmp_path: Path) -> None:
    service = Service(tmp_path / "s", await postgres.new_database(), MAINSPRING_LOG_LEVEL="debug")
    await service.start()
    status, out = await service.ended()
    assert status == 1
    assert "a background task of the test" in out


async def test_an_outdated_schema_stops_the_start_and_says_what_to_do(postgres: PostgresServer, tmp_path: Path) -> None:
    service = Service(tmp_path / "s", await postgres.new_database(), MAINSPRING_MIGRATE_ON_START="false")
    service.env["MAINSPRING_LOG_LEVEL"] = "error"
    assert service.env["MAINSPRING_MIGRATE_ON_START"] == "false"
    await service.start()
    status, _ = await service.ended()
    assert status == 1


async def test_i9_readiness_goes_when_the_database_goes(postgres: PostgresServer, tmp_path: Path) -> None:
    from mainspring_testkit.servers import PostgresServer as Own
    from mainspring_testkit.servers import scratch_folder

    async with scratch_folder("ready") as folder:
        own = Own(folder)
        await own.start()
        service = Service(tmp_path / "s", await own.new_database())
        await service.start()
        try:

            async def answers(status: int) -> bool:
                return (await service.get("/readyz"))[0] == status

            await eventually(lambda: answers(200), within_s=20, what="readiness")
            await own.kill()
            await eventually(lambda: answers(503), within_s=5.5, what="the loss of readiness")
            await own.start()
            await eventually(lambda: answers(200), within_s=15, what="recovery without a restart")
        finally:
            assert service.process is not None
            service.process.terminate()
            await service.ended()
            await own.stop()
