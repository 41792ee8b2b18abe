"""The trainer's own settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from mainspring_svckit.settings import ServiceSettings


class TrainerSettings(ServiceSettings):
    """What the trainer needs beyond what every service needs."""

    registry_address: str = Field(description="The registry, as host:port; base models and champions are asked for.")
    data_ingest_address: str = Field(description="data-ingest, as host:port; dataset versions are asked for.")
    worker_python: str = Field(
        sys.executable, description="Interpreter of an environment with mainspring-training-worker."
    )
    cache_dir: Path = Field(description="Folder for files from the artifact store; replicas of a machine may share it.")
    cache_max_bytes: int = Field(20 << 30, ge=1 << 20, description="Size at which the cache forgets what is oldest.")
    scratch_dir: Path | None = Field(None, description="Folder for a run's files; the system's when unset.")
    torch_threads: int = Field(0, ge=0, le=1024, description="Threads of a run; 0 takes the processors there are.")
    precision: str = Field("auto", pattern="^(auto|fp32|bf16)$", description="Weights of the base while tuning.")
    device: str = Field("auto", pattern="^(auto|cpu|cuda)$", description="Where runs compute; auto takes a GPU if any.")
    micro_batch_tokens: int = Field(
        0,
        ge=0,
        le=1 << 20,
        description="Tokens through the model at once; 0 for 256, and on a GPU for what half of its memory holds.",
    )
    max_validation_rows: int = Field(128, ge=1, description="Validation rows that a run looks at; more are left out.")
    run_attempts: int = Field(5, ge=1, le=100, description="Tries before a run whose process dies is given up.")
    run_lease_s: float = Field(30, gt=0, le=3600, description="A trainer that is silent for so long has lost its run.")
    spare_worker: bool = Field(
        True, description="Keep a process that has its libraries loaded, for the next run; about 300 MB."
    )
    worker_silence_s: float = Field(900, gt=0, description="Longest silence of a run's process before it is killed.")
    worker_output_max_bytes: int = Field(64 << 20, ge=1, description="Most that a process may print.")
    worker_file_max_bytes: int = Field(64 << 30, ge=1, description="Largest file that a process may write.")
    worker_memory_max_bytes: int = Field(0, ge=0, description="Most memory for a process's data; 0 for no limit.")
    worker_processes_max: int = Field(512, ge=1, description="Most processes that a run may be.")
    checkpoint_grace_s: float = Field(12, gt=0, description="Time for a last checkpoint when stopping.")
    stop_grace_s: float = Field(18.0, gt=0, le=600, description="Time for everything in flight when stopping.")

    executor: str = Field(
        "local", pattern="^(local|ray)$", description="Where runs compute: here, or on a Ray cluster."
    )
    ray_address: str = Field("", description="The cluster: ray://host:port, or host:port from one of its machines.")
    ray_token: SecretStr = Field(SecretStr(""), description="Its token; empty when it asks for none.")
    ray_workers: int = Field(1, ge=1, le=64, description="Workers that learn a run together, by shares of its rows.")
    ray_wait_s: float = Field(60, gt=0, le=3600, description="Longest wait for all of them; then who is there begins.")

    runs_at_a_time: int = Field(1, ge=1, le=64, description="Runs that one replica works on at a time.")
    runs_per_project: int = Field(
        0, ge=0, description="Runs of one project that all replicas together work on at a time; 0 for no limit."
    )
    open_runs_per_project: int = Field(1000, ge=1, description="Runs of a project that may wait or be worked on.")
    kept_checkpoints: int = Field(2, ge=1, le=1000, description="Newest checkpoints of a run that are kept.")
    checkpoint_retention_h: float = Field(0, ge=0, description="Hours that they are kept after a run has ended.")
    watts_per_core: float = Field(
        10.0,
        ge=0,
        description="Watts of one busy core, for the estimate of energy; 10 is a rule of thumb.",
    )
    cost_per_core_hour: float = Field(0, ge=0, description="Cost of one core for an hour.")
    cost_per_gpu_hour: float = Field(0, ge=0, description="Cost of one GPU for an hour.")
    cost_per_kwh: float = Field(0, ge=0, description="Cost of a kilowatt-hour.")
    currency: str = Field("", max_length=8, description="Currency of these costs, for example EUR.")

    mlflow_url: str = Field(
        "", pattern="^(|https?://.+)$", description="MLflow server that runs are mirrored to; empty for none."
    )
    mlflow_token: SecretStr = Field(SecretStr(""), description="Bearer token for it.")
    comet_folder: Path | None = Field(None, description="Folder for runs as offline experiments of Comet; none: none.")
    wandb_folder: Path | None = Field(None, description="Folder for runs as offline runs of W&B; none: none are made.")
    tracker_python: str = Field(sys.executable, description="Interpreter that has comet_ml and wandb.")

    @model_validator(mode="after")
    def _knows_its_cluster(self) -> Self:
        if self.executor == "ray" and not self.ray_address:
            raise ValueError("executor is ray, so ray_address must name the cluster")
        return self

    @property
    def threads(self) -> int:
        """Threads of a run."""
        return self.torch_threads or len(os.sched_getaffinity(0))
