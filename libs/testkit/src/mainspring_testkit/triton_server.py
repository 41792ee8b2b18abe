"""A real Triton for tests, on free ports and in a temporary folder."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import psutil

from mainspring_client.stack.component import Running, kill_group, start
from mainspring_client.stack.ports import allocate
from mainspring_client.stack.triton import remove_shared_memory, triton_component


class TritonServer:
    """A Triton that a test may kill and start again on the same ports. It starts without models: a test writes them
    into `repository` and has them loaded by `mainspring_answers.triton.TritonClient`. After a restart none is loaded.
    """

    def __init__(self, folder: Path) -> None:
        """Takes a folder of its own; nothing runs yet."""
        self._folder = folder
        self._ports, _ = allocate(("http", "grpc", "metrics"), {}, {})
        self.repository = folder / "models"
        self._running: Running | None = None

    @property
    def address(self) -> str:
        """`host:port` of gRPC."""
        return f"127.0.0.1:{self._ports['grpc']}"

    @property
    def http_url(self) -> str:
        """Health over HTTP; hardly anything else is open there."""
        return f"http://127.0.0.1:{self._ports['http']}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus reads."""
        return f"http://127.0.0.1:{self._ports['metrics']}/metrics"

    @property
    def pid(self) -> int:
        """Process id of the server, for signals."""
        assert self._running is not None
        return self._running.pid

    @property
    def log(self) -> str:
        """Everything that the server and its models have written."""
        path = self._folder / "server" / "triton.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def start(self) -> None:
        """Starts it and waits until it takes requests.

        Raises:
            ComponentFailed: It does not start, or its environment is missing; the message says what makes it.
        """
        component = await asyncio.to_thread(
            triton_component,
            self._folder / "server",
            http_port=self._ports["http"],
            grpc_port=self._ports["grpc"],
            metrics_port=self._ports["metrics"],
            repository=self.repository,
        )
        self._running = await start(component)
        await self._running.wait_ready()

    async def restart(self) -> None:
        """Stops it in an orderly way and starts it again."""
        await self.stop()
        await self.start()

    async def kill(self) -> None:
        """Kills the server, and with it the processes of its models, with SIGKILL."""
        assert self._running is not None
        kill_group(self._running.pid)
        await self._running.process.wait()

    async def stop(self) -> None:
        """Stops it in an orderly way, by force where that hangs, and removes its shared memory."""
        if self._running is not None:
            await self._running.stop()
        await asyncio.to_thread(remove_shared_memory, self._folder / "server")

    def model_pid(self, model: str) -> int:
        """Process id of the stub that runs a loaded model, for signals."""
        # The stub is started with the path of the model's code.
        mark = f"/{model}/"
        found: list[int] = []
        for process in psutil.Process(self.pid).children():
            with suppress(psutil.NoSuchProcess):  # Gone, or a zombie.
                found += [process.pid] if any(mark in part for part in process.cmdline()) else []
        assert len(found) == 1, f"{model} is run by {len(found)} processes"
        return found[0]
