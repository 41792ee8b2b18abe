"""Near duplicates: ours against datatrove's MinHash on the same rows, and what each finds of the true pairs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from bench import children, data_rows
from bench.figures import Bar, Figure, Result
from mainspring_data_ingest.adapters.candidates import Candidates
from mainspring_data_ingest.adapters.chunks import ChunkFolder, encode
from mainspring_data_ingest.adapters.steps.near_duplicates import NearDuplicatesDecision, NearDuplicatesProbe
from mainspring_data_ingest.application.refining import Candidate, RecordChunk, RefinedChunk
from mainspring_data_ingest.domain.report import Measure, TextStatistics
from mainspring_data_ingest.domain.rows import Draft, Example, Message, Row
from mainspring_data_ingest.domain.steps import NearDuplicates, TextPart
from mainspring_data_ingest.domain.words import runs_of, words_of

ROWS = 100_000
THRESHOLD, SHINGLE_WORDS = 0.8, 3
PACKAGES = ("datatrove[io]==0.10.1", "spacy", "tokenizers", "xxhash<4", "regex")
_CHUNK = 4_000
_STEP = NearDuplicates(THRESHOLD, SHINGLE_WORDS, TextPart.ANSWER)
_SHARES = data_rows.Shares(exact_duplicates=0, near_duplicates=0.2, leaks=0, junk=0, mojibake=0)


async def measure(folder: Path, repeats: int) -> Result:
    """Measures both in turns, each in one process."""
    result = Result("data-near")
    rows = list(data_rows.Rows(3, _SHARES).make(ROWS))
    texts = [answer for _, answer in rows]
    with (folder / "texts.jsonl").open("w") as file:
        file.writelines(json.dumps({"id": str(n), "text": text}) + "\n" for n, text in enumerate(texts))
    python = await _environment(folder)
    drafts = [Draft((Message("user", prompt), Message("assistant", answer))) for prompt, answer in rows]
    ours, theirs = list[float](), list[float]()
    refused, left = set[int](), set[int]()
    for number in range(repeats):
        seconds, refused = await asyncio.to_thread(_ours, folder / f"ours-{number}", drafts)
        ours.append(ROWS / seconds)
        home = folder / f"theirs-{number}"
        home.mkdir()
        script = Path(__file__).parent / "workers" / "datatrove_minhash.py"
        out = await children.run(python, script, folder / "texts.jsonl", home, str(SHINGLE_WORDS), within_s=1500)
        told = json.loads(out.splitlines()[-1])
        theirs.append(ROWS / told["seconds"])
        left = set(told["left"])
    pairs = true_pairs(texts)
    ratio = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    found = _recall(pairs, refused)
    result.figures = [
        Figure.of("ours", "rows/s", ours),
        Figure.of("datatrove", "rows/s", theirs, note="one process, its defaults (14 bands of 8), words by spaCy"),
        Figure.of("ours / datatrove", "", ratio, bar=Bar(8, True)),
        Figure("ours, recall", "", found, bar=Bar(0.97, True), note=f"of {len(pairs)} pairs from {THRESHOLD} on"),
        Figure("datatrove, recall", "", _recall(pairs, set(range(ROWS)) - left)),
    ]
    result.details = {"refused": {"ours": len(refused), "datatrove": ROWS - len(left)}}
    return result


def _ours(folder: Path, drafts: Sequence[Draft]) -> tuple[float, set[int]]:
    """Seconds, and the rows refused. What only a whole ingestion needs of a chunk is not measured."""
    folder.mkdir()
    chunks, probe, infos = ChunkFolder(folder / "chunks"), NearDuplicatesProbe(_STEP), list[Any]()
    seconds = 0.0
    for number, start in enumerate(range(0, len(drafts), _CHUNK)):
        some = drafts[start : start + _CHUNK]
        rows = [Row.of(Example(draft.messages, ""), 0, start + n) for n, draft in enumerate(some)]
        made = [
            Candidate(start + n, row, False, b"", Measure(0, 0, 0, 0, 0), bytes(16), ()) for n, row in enumerate(rows)
        ]
        refined = RefinedChunk(made, [], [], TextStatistics())
        began = time.perf_counter()
        arrays = probe.probe(made, some)
        seconds += time.perf_counter() - began
        infos.append(chunks.put(number, encode(RecordChunk(number, 0, start, ()), refined, {0: arrays})))
    candidates = Candidates(chunks, infos)
    began = time.perf_counter()
    refused = NearDuplicatesDecision(_STEP, 0).decide(candidates, folder)
    return seconds + time.perf_counter() - began, set(refused.rows.tolist())


def true_pairs(texts: Sequence[str]) -> list[tuple[int, int]]:
    """All pairs whose exact Jaccard similarity reaches the threshold.

    Two such sets share a shingle among the rarest few of each (prefix filter), so nothing is missed.
    """
    shingles = [runs_of(words_of(text), SHINGLE_WORDS) for text in texts]
    counts: dict[str, int] = defaultdict(int)
    for runs in shingles:
        for run in runs:
            counts[run] += 1
    holders: dict[str, list[int]] = defaultdict(list)
    for number, runs in enumerate(shingles):
        rarest = sorted(runs, key=lambda run: (counts[run], run))
        for run in rarest[: len(runs) - int(THRESHOLD * len(runs)) + 1]:
            holders[run].append(number)
    pairs = {pair for numbers in holders.values() for pair in combinations(numbers, 2)}
    return [(a, b) for a, b in pairs if _jaccard(shingles[a], shingles[b]) >= THRESHOLD]


def _jaccard(mine: set[str], other: set[str]) -> float:
    common = len(mine & other)
    return common / (len(mine) + len(other) - common)


def _recall(pairs: Sequence[tuple[int, int]], refused: set[int]) -> float:
    """Share of the true pairs of which not both are left."""
    return sum(a in refused or b in refused for a, b in pairs) / max(1, len(pairs))


async def _environment(folder: Path) -> Path:
    """An environment with datatrove, which lives as long as the folder."""
    home = folder / "datatrove"
    await children.run(sys.executable, "-m", "venv", home, within_s=120)
    python = home / "bin" / "python"
    await children.run(
        python, "-m", "pip", "install", "-q", "--no-input", *PACKAGES, within_s=900, env=dict(os.environ)
    )
    return python
