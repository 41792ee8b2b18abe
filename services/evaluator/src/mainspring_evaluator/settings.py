"""The evaluator's own settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mainspring_svckit.settings import ServiceSettings


class EvaluatorSettings(ServiceSettings):
    """What the evaluator needs beyond what every service needs."""

    registry_address: str = Field(description="host:port of the registry.")
    data_ingest_address: str = Field(description="host:port of data-ingest.")
    inference_address: str = Field(description="host:port of inference.")
    embedder_address: str = Field("", description="host:port of the embedder; needed by embedding_similarity only.")
    task_roots: list[Path] = Field(
        default_factory=list[Path], description="Folders below which suites may name tasks of other harnesses."
    )
    runs_at_a_time: int = Field(1, ge=1, le=64, description="Runs that one replica works on at a time.")
    answers_at_a_time: int = Field(8, ge=1, le=256, description="Questions that one replica asks at a time.")
    answer_tries: int = Field(6, ge=1, le=20, description="Tries for one answer before the run is put off.")
    answer_retry_wait_s: float = Field(
        0.5, gt=0, le=60, description="Wait before the second try for an answer; doubled for each further one."
    )
    answer_timeout_s: float = Field(120.0, gt=0, le=3600, description="Longest wait for one answer.")
    load_timeout_s: float = Field(600.0, gt=0, le=7200, description="Longest wait for a version to be loaded.")
    run_attempts: int = Field(
        5, ge=1, le=100, description="Tries for a run, and for each shard of its questions, before the run fails."
    )
    lease_s: float = Field(30.0, gt=0, le=600, description="A replica that is silent for so long has lost its run.")
    scratch_dir: Path | None = Field(None, description="Folder for temporary files; the system's when unset.")
