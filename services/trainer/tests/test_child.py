"""Training processes that misbehave, each in its own way; the scripts here stand for the worker."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest

from mainspring_svckit.errors import InsufficientStorage, MainspringError, PreconditionFailed, Unavailable
from mainspring_testkit.waiting import eventually
from mainspring_trainer.adapters.child import ChildProcess, ChildProcesses, Limits
from mainspring_trainer.application.ports import Told

PREAMBLE = """
import ctypes, json, os, pathlib, resource, signal, subprocess, sys, time
sys.stdin.read()  # Its end says that the specification is there.
spec = json.loads(pathlib.Path(sys.argv[-1]).read_text())
output = pathlib.Path(spec["output"])
def tell(kind, **values):
    os.write(spec["progress_fd"], (json.dumps({"type": kind, **values}) + "\\n").encode())
"""
Start = Callable[..., AbstractAsyncContextManager[ChildProcess]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a script in the worker's place."""

    def make(script: str, **limits: Any) -> AbstractAsyncContextManager[ChildProcess]:
        python = tmp_path / "python"
        python.write_text(f"#!{sys.executable}\n{PREAMBLE}{script}")
        python.chmod(0o755)
        given: dict[str, Any] = {
            "silence_s": 30.0,
            "output_bytes": 1 << 20,
            "file_bytes": 1 << 30,
            "memory_bytes": 0,
            "stop_s": 10.0,
            **limits,
        }
        (tmp_path / "scratch").mkdir()
        return ChildProcesses(str(python), tmp_path / "scratch", Limits(**given)).start("run", {"shard": 1})

    return make


async def heard(child: ChildProcess) -> list[Told]:
    return [told async for told in child.told()]


async def failure(child: ChildProcess) -> MainspringError:
    with pytest.raises(MainspringError) as caught:
        await heard(child)
    return caught.value


def left(folder: Path) -> list[Path]:
    return list((folder / "scratch").iterdir())


async def test_a_process_tells_and_leaves_nothing_behind(start: Start, tmp_path: Path) -> None:
    script = 'tell("plan", steps=3); tell("tick"); (output / "f").write_text(str(spec["shard"])); tell("result")'
    async with start(script) as child:
        assert [told["type"] for told in await heard(child)] == ["plan", "result"]
        assert (child.output / "f").read_text() == "1"
    assert left(tmp_path) == []


async def test_a_process_yields_to_everything_else_and_learns_no_secret(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAINSPRING_SERVICE_TOKEN", "secret")
    script = """
while os.getpriority(os.PRIO_PROCESS, 0) != 19: time.sleep(0.01)
tell("facts", policy=os.sched_getscheduler(0), env=dict(os.environ), cores=resource.getrlimit(resource.RLIMIT_CORE))
"""
    async with start(script) as child:
        (facts,) = await heard(child)
    assert facts["policy"] == os.SCHED_IDLE
    assert set(facts["env"]) <= {"PATH", "LANG", "LC_CTYPE", "HOME", "TMPDIR", "OMP_WAIT_POLICY"}


@pytest.mark.parametrize(
    ("script", "kind", "reason", "words"),
    [
        ("raise ValueError('the cause')", Unavailable, "WORKER_CRASHED", "the cause"),
        ("sys.exit(7)", Unavailable, "WORKER_CRASHED", "status 7"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", Unavailable, "WORKER_CRASHED", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGKILL)", Unavailable, "OUT_OF_MEMORY", "lack of memory"),
        ("os._exit(137)", Unavailable, "OUT_OF_MEMORY", "lack of memory"),
        ("tell('failed', reason='DIVERGED', message='m'); sys.exit(3)", PreconditionFailed, "DIVERGED", "m"),
        ("os.write(spec['progress_fd'], b'NaN\\n')", PreconditionFailed, "WORKER_UNKNOWN", "NaN"),
        (
            "os.write(spec['progress_fd'], b'\\xff\\xfe\\n')",
            PreconditionFailed,
            "WORKER_UNKNOWN",
            "instead of its progress",
        ),
        ("os.write(spec['progress_fd'], b'[' * 100000 + b'\\n')", PreconditionFailed, "WORKER_UNKNOWN", "progress"),
        (
            "while True: os.write(spec['progress_fd'], b'x' * 65536)",
            PreconditionFailed,
            "WORKER_UNKNOWN",
            "a line without end",
        ),
        ("while True: print('x' * 10000)", PreconditionFailed, "WORKER_OUTPUT_TOO_LARGE", "1048576 bytes"),
    ],
)
async def test_f19_each_death_has_its_reason(
    start: Start, tmp_path: Path, script: str, kind: type[MainspringError], reason: str, words: str
) -> None:
    async with start(script) as child:
        error = await failure(child)
    assert (type(error), error.reason) == (kind, reason)
    assert words in error.message
    assert left(tmp_path) == []


async def test_f19_a_process_that_hangs_is_killed(start: Start) -> None:
    async with start('tell("phase", phase="x")\nwhile True: pass', silence_s=0.5) as child:
        assert (await failure(child)).reason == "WORKER_HUNG"


async def test_f19_memory_is_bounded(start: Start) -> None:
    script = """
while resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY: time.sleep(0.01)
hold = bytearray(1 << 30)
"""
    async with start(script, memory_bytes=256 << 20) as child:
        assert (await failure(child)).reason == "OUT_OF_MEMORY"


async def test_f9_a_file_that_grows_without_end_is_cut(start: Start) -> None:
    script = """
while resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY: time.sleep(0.01)
(output / "big").write_bytes(b"x" * (2 << 20))
"""
    async with start(script, file_bytes=1 << 20) as child:
        error = await failure(child)
    assert "File too large" in error.message


async def test_f9_a_process_without_space_is_told_from_one_that_cannot_end(start: Start) -> None:
    script = "tell('failed', reason='INSUFFICIENT_STORAGE', message='m'); sys.exit(3)"
    async with start(script) as child:
        error = await failure(child)
    assert isinstance(error, InsufficientStorage), "the run is paused, not failed"


async def test_f19_a_process_that_multiplies_is_killed_with_all_of_it(start: Start, tmp_path: Path) -> None:
    # As a fork bomb does, but bounded, since a test that fails must not take the machine with it.
    script = """
for depth in range(7):
    os.fork()
while True: time.sleep(1)
"""
    async with start(script, processes=20) as child:
        assert (await failure(child)).reason == "WORKER_MULTIPLIED"
    marked = str(tmp_path)

    async def all_gone() -> bool:
        return not [p for p in psutil.process_iter(["cmdline"]) if marked in " ".join(p.info["cmdline"] or ())]

    await eventually(all_gone, what="all processes to end")


async def test_f19_ten_gigabytes_of_output_are_neither_kept_nor_waited_for(start: Start) -> None:
    script = """
tell("plan")
line = b"x" * (1 << 20)
for _ in range(10 << 10): os.write(1, line)
"""
    async with start(script) as child:
        assert (await failure(child)).reason == "WORKER_OUTPUT_TOO_LARGE"


async def test_f19_what_a_process_has_started_ends_with_it(start: Start, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"""
children = [subprocess.Popen(["sleep", "600"], close_fds=False) for _ in range(5)]
pathlib.Path({str(pids)!r}).write_text(json.dumps([child.pid for child in children]))
tell("result")
"""
    async with start(script) as child:
        assert [told["type"] for told in await heard(child)] == ["result"]
    for pid in json.loads(pids.read_text()):
        await eventually(lambda pid=pid: gone(pid), what="a grandchild to end")


async def test_f19_what_flees_from_the_process_group_holds_nothing_up(start: Start) -> None:
    script = """
fled = subprocess.Popen(["sleep", "600"], close_fds=False, start_new_session=True)
tell("result", pid=fled.pid)
"""
    async with start(script) as child:
        (result,) = await heard(child)
    os.kill(result["pid"], signal.SIGKILL)


async def test_f2_asked_to_stop_a_process_may_write_a_checkpoint(start: Start) -> None:
    script = """
def stop(*_):
    tell("checkpoint", step=3)
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
tell("plan")
while True: signal.pause()
"""
    async with start(script) as child:
        told = aiter(child.told())
        assert (await anext(told))["type"] == "plan"
        await child.stop()
        assert [line["type"] async for line in told] == ["checkpoint"]


async def test_f2_a_process_that_does_not_stop_is_killed(start: Start) -> None:
    script = 'signal.signal(signal.SIGTERM, signal.SIG_IGN); tell("plan")\nwhile True: pass'
    async with start(script, stop_s=0.3) as child:
        told = aiter(child.told())
        assert (await anext(told))["type"] == "plan"
        await child.stop()
        assert [line async for line in told] == []


async def test_a_process_that_is_not_wanted_any_more_is_killed(start: Start, tmp_path: Path) -> None:
    pid = 0
    with pytest.raises(asyncio.CancelledError):
        async with start('tell("pid", pid=os.getpid())\nwhile True: pass') as child:
            pid = (await anext(aiter(child.told())))["pid"]
            raise asyncio.CancelledError
    await eventually(lambda: gone(pid))
    assert left(tmp_path) == []


async def test_a_worker_that_is_not_installed_is_said_to_be_missing(start: Start, tmp_path: Path) -> None:
    limits = Limits(30, 1 << 20, 1 << 30, 0, 10)
    for python, words in ((str(tmp_path / "none"), "set worker_python"), (sys.executable, "install")):
        with pytest.raises(PreconditionFailed) as caught:
            async with ChildProcesses(python, tmp_path, limits).start("run", {}) as child:
                await heard(child)
        assert caught.value.reason == "WORKER_NOT_INSTALLED"
        assert words in caught.value.message


async def test_a_spare_process_waits_takes_the_next_run_and_is_followed_by_another(tmp_path: Path) -> None:
    python, pids = tmp_path / "python", tmp_path / "pids"
    (tmp_path / "scratch").mkdir()
    python.write_text(
        f"#!{sys.executable}\nimport os, pathlib, sys\n"
        f"with open({str(pids)!r}, 'a') as file: print(os.getpid(), sys.argv[3:5], file=file)\n"
        f"{PREAMBLE}tell('result', pid=os.getpid())"
    )
    python.chmod(0o755)
    limits = Limits(30, 1 << 20, 1 << 30, 0, 10)
    children = ChildProcesses(str(python), tmp_path / "scratch", limits)
    keeping = asyncio.create_task(children.keep_spare(2))

    async def started(count: int) -> bool:
        return pids.exists() and len(pids.read_text().splitlines()) == count

    await eventually(lambda: started(1), within_s=60, what="the spare process")
    async with children.start("run", {"adaptation": "LORA"}) as child:
        (result,) = await heard(child)
    await eventually(lambda: started(2), within_s=60, what="the next one")
    first, second = pids.read_text().splitlines()
    assert first == f"{result['pid']} ['--ahead', '2']"
    async with children.start("run", {"adaptation": "QLORA"}) as child:
        (result,) = await heard(child)
    assert str(result["pid"]) not in (first.split()[0], second.split()[0])
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert left(tmp_path) == []


async def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
