"""A process that reads documents: `python -m mainspring_data_ingest.adapters.documents.process`.

It takes a JSON line `{"path", "format", "name"}` for each document on standard input, and answers with a line
`[place, columns]` for each record, and a last one `{"problem"}`, which is empty when all went well. It can neither
write files nor take more memory than its limit, and ends with its standard input.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
import warnings
from pathlib import Path
from typing import Any

from mainspring_data_ingest.adapters.documents.parsers import Unreadable, records
from mainspring_data_ingest.domain.ingestions import SourceFormat

MEMORY_BYTES = 2 << 30
OPEN_FILES = 64


def main() -> int:
    """Serves until its standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    # Parsers warn of what they had to guess; their warnings may quote the document.
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for line in sys.stdin.buffer:
        job = json.loads(line)
        _say({"problem": _serve(Path(job["path"]), SourceFormat(job["format"]), job["name"])})
    return 0


def _serve(path: Path, source_format: SourceFormat, name: str) -> str:
    try:
        for record in records(path, source_format, name):
            _say(record)
    except Unreadable as err:
        return str(err)
    except (MemoryError, RecursionError) as err:
        return f"needs more to be read than any document may ({type(err).__name__}); save it in parts"
    except Exception as err:  # noqa: BLE001 - whatever a parser does, the next document is read.
        return f"cannot be read ({type(err).__name__}); it may be damaged"
    return ""


def _say(value: Any) -> None:
    # ASCII, since texts may hold what no encoding has; a line end within a text is escaped.
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
