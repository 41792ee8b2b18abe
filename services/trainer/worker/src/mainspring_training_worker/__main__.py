"""`python -m mainspring_training_worker [--ahead THREADS PARENT] spec.json`: one run; see `spec.py` and `progress.py`.

It begins when standard input ends; with `--ahead` it loads its libraries before, for that number of threads.

Exit status 0: the result is told. 3: refused, and why is told. 75: stopped as asked, with a checkpoint. Anything else
is a crash; standard error says why.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import sys
from collections.abc import Callable

from mainspring_training_worker.crash import crash_point
from mainspring_training_worker.fitting import rows_of
from mainspring_training_worker.process import (
    REFUSED,
    STOPPED,
    awaited_spec,
    die_with,
    lacks_memory,
    lacks_space,
    one_of,
)
from mainspring_training_worker.progress import Progress, QuietProgress
from mainspring_training_worker.spec import Refused, Spec

_RUN = "mainspring_training_worker.run"


def main() -> int:
    """Does the run that the last argument describes; returns the exit status."""
    faulthandler.enable()
    if sys.argv[1] == "--ahead":
        die_with(int(sys.argv[3]))
        _set_up(threads=sys.argv[2], four_bits=False)
        importlib.import_module(_RUN)
    spec = Spec.read(awaited_spec())
    die_with(spec.parent_pid)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    follows = spec.team is not None and spec.team.rank > 0
    progress = (QuietProgress if follows else Progress)(spec.progress_fd)
    try:
        return _run(spec, progress, lambda: bool(asked))
    except Refused as refusal:
        progress.tell("failed", reason=refusal.reason, message=refusal.message)
        return REFUSED
    except Exception as err:
        lacking = _lacking(err)
        if lacking is None:
            raise
        progress.tell("failed", reason=lacking.reason, message=lacking.message)
        return REFUSED


def _lacking(err: Exception) -> Refused | None:
    """What of the machine a run had too little of, when that is what an error says."""
    if lacks_space(err):
        message = "the folder for a run's files has no space left, or a file is larger than allowed; make room"
        return Refused("INSUFFICIENT_STORAGE", message)
    where = lacks_memory(err) if isinstance(err, MemoryError | RuntimeError) else None
    if where is None:
        return None
    message = f"{where} has too little memory for this run; lower max_sequence_tokens or batch_rows"
    return Refused("OUT_OF_MEMORY", message)


def _run(spec: Spec, progress: Progress, stopping: Callable[[], bool]) -> int:
    """Rows first: what cannot be learned is refused before the seconds that the libraries take."""
    progress.tell("phase", phase="reading rows")
    rows = rows_of(spec)
    crash_point("training-worker:rows-read")
    progress.tell("phase", phase="loading libraries")
    if _RUN not in sys.modules:
        _set_up(threads=str(spec.threads), four_bits=spec.adaptation == "QLORA")
    from mainspring_training_worker.run import train
    from mainspring_training_worker.team import Stopped

    try:
        train(spec, rows, progress, stopping)
    except Stopped:
        return STOPPED
    return 0


def _set_up(*, threads: str, four_bits: bool) -> None:
    """What must be known before libraries are loaded: the threads, and that nothing is fetched from outside."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": threads,
        "CUDA_VISIBLE_DEVICES": one_of(os.environ.get("CUDA_VISIBLE_DEVICES", "0")),
    }
    if not four_bits:
        # PEFT imports it when it is there, which takes as long as all else together.
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # How Python marks what must not be imported.


if __name__ == "__main__":
    sys.exit(main())
