"""Runs in an environment with datatrove: its MinHash pipeline on one file; prints seconds and the ids that are left.

usage: python datatrove_minhash.py TEXTS.jsonl FOLDER SHINGLE_WORDS
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found]
from datatrove.pipeline.dedup import (  # type: ignore[import-not-found]
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.dedup.minhash import MinhashConfig  # type: ignore[import-not-found]
from datatrove.pipeline.readers import JsonlReader  # type: ignore[import-not-found]
from datatrove.pipeline.writers.jsonl import JsonlWriter  # type: ignore[import-not-found]


def main() -> None:
    """The four stages that its documentation shows, one task each."""
    texts, home, shingle = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    config = MinhashConfig(n_grams=shingle)
    signatures, buckets, cluster, out = (str(home / name) for name in ("signatures", "buckets", "cluster", "out"))

    def reader() -> Any:
        return JsonlReader(str(texts.parent), glob_pattern=texts.name)

    stages: list[tuple[list[Any], int]] = [
        ([reader(), MinhashDedupSignature(output_folder=signatures, config=config, language="eng")], 1),
        ([MinhashDedupBuckets(input_folder=signatures, output_folder=buckets, config=config)], config.num_buckets),
        ([MinhashDedupCluster(input_folder=buckets, output_folder=cluster, config=config)], 1),
        ([reader(), MinhashDedupFilter(input_folder=cluster), JsonlWriter(out)], 1),
    ]
    began = time.perf_counter()
    for number, (pipeline, tasks) in enumerate(stages):
        LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=1, logging_dir=str(home / f"logs-{number}")).run()
    seconds = time.perf_counter() - began
    left: list[int] = []
    for path in Path(out).glob("*.jsonl.gz"):
        with gzip.open(path, "rt") as file:
            left += [int(json.loads(line)["id"]) for line in file]
    print(json.dumps({"seconds": seconds, "left": left}))


if __name__ == "__main__":
    main()
