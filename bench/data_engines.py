"""The same rows refined by processes of this machine and by a Ray cluster: the same version, and at what speed."""

from __future__ import annotations

from pathlib import Path

from bench import data_pipeline
from bench.data_pipeline import Run
from bench.figures import Bar, Figure, Result
from mainspring_testkit.ray_cluster import ray_cluster

MACHINES = 2


async def measure(folder: Path, rows: int) -> Result:
    """Measures both, one after the other; the cluster's machines have one processor each and share this one's."""
    native = await data_pipeline.ingest(folder / "native", rows)
    with ray_cluster(MACHINES) as cluster:
        ray = await data_pipeline.ingest(folder / "ray", rows, cluster.address, cluster.env)
    same = float(_digests(native) == _digests(ray))
    return Result(
        "data-engines",
        figures=[
            Figure("the same root digest (1: yes)", "", same, bar=Bar(1, at_least=True)),
            Figure(f"native, {rows} rows", "rows/s", rows / native.seconds),
            Figure(f"Ray, {MACHINES} machines of one processor here", "rows/s", rows / ray.seconds),
            Figure("peak memory, native", "MiB", native.peak_bytes / 2**20),
            Figure("peak memory with Ray, without the cluster", "MiB", ray.peak_bytes / 2**20),
        ],
        details={"native": native.phases, "ray": ray.phases},
    )


def _digests(run: Run) -> list[tuple[str, str]]:
    return [(shard.split.value, shard.rows_sha256) for shard in run.made.shards]
