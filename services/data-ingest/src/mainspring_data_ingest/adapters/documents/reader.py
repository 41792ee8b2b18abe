"""Reads documents by way of their process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.records import EXCERPT_BYTES, Record

MODULE = "mainspring_data_ingest.adapters.documents.process"
FORMATS = frozenset({SourceFormat.HTML, SourceFormat.PDF, SourceFormat.DOCX, SourceFormat.PYTHON})
MAX_TEXT_BYTES = 256 << 20
"""Most that is taken out of one document."""
SECONDS = 60.0
"""Longest time for one document."""


class Documents:
    """A process that reads one document after another; started when the first one comes, and anew when one ends it."""

    def __init__(self, seconds: float = SECONDS) -> None:
        """Takes the time that a document may need."""
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def records(self, path: Path, source_format: SourceFormat, name: str) -> Iterator[Record]:
        """The records of a document; one that cannot be read, or not to its end, gives a record that says so.

        Args:
            path: Where it is.
            source_format: One of `FORMATS`.
            name: What its owner calls it.
        """
        process = self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        job = {"path": str(path.absolute()), "format": source_format.value, "name": name}
        timer = threading.Timer(self._seconds, process.kill)
        timer.daemon = True
        timer.start()
        place, size, problem = 1, 0, ""
        try:
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
            while True:
                line = process.stdout.readline()
                size += len(line)
                said: Any = json.loads(line) if line.endswith(b"\n") else None
                if isinstance(said, list):
                    if size > MAX_TEXT_BYTES:
                        problem = f"holds more than {MAX_TEXT_BYTES} bytes of text; save it in parts"
                        break
                    place, values = said
                    yield Record(place, _excerpt(values), values)
                    continue
                problem = said["problem"] if said is not None else self._end_of(process)
                break
        except BrokenPipeError:
            problem = self._end_of(process)
        finally:
            timer.cancel()
            if problem or process.poll() is not None:
                self.__exit__()
        if problem:
            yield Record(place, name.encode()[:EXCERPT_BYTES], {}, problem)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={key: value for key, value in os.environ.items() if not key.startswith("MAINSPRING_")},
            )
        return self._process

    def _end_of(self, process: subprocess.Popen[bytes]) -> str:
        status = process.wait()
        if status == -9:
            return f"could not be read within {self._seconds:g} seconds; save it in parts"
        return f"ended the process that read it (status {status}); it may be damaged"


class DocumentReader:
    """`SourceReader` of one document."""

    def __init__(self, documents: Documents, path: Path, source_format: SourceFormat, name: str) -> None:
        self._documents, self._path, self._format, self._name = documents, path, source_format, name

    def records(self) -> Iterator[Record]:
        """See `SourceReader`."""
        yield from self._documents.records(self._path, self._format, self._name)


def _excerpt(values: dict[str, Any]) -> bytes:
    return str(values["text"])[:EXCERPT_BYTES].encode(errors="backslashreplace")
