"""Inference's own settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mainspring_inference.domain.deployments import Engine
from mainspring_svckit.settings import ServiceSettings


class InferenceSettings(ServiceSettings):
    """What inference needs beyond what every service needs."""

    triton_url: str = Field(description="Triton's gRPC address: host:port.")
    model_repository: Path = Field(description="Folder that Triton reads models from; shared with it.")
    cache_dir: Path = Field(description="Folder for model files fetched from the artifact store; shared with Triton.")
    registry_address: str = Field(description="The registry's gRPC address: host:port.")
    signing_keys: Path = Field(description="File with the public keys (PEM) whose signed manifests are believed.")
    embedder_address: str = Field(description="The embedder's gRPC address: host:port.")
    engine: Engine = Field(
        Engine.LLAMA_CPP,
        description="What makes answers behind Triton: llama.cpp on processors, or vllm on GPUs.",
    )
    gpu_memory_share: float = Field(
        0.4,
        gt=0,
        le=1,
        description="Share of a GPU's memory that one deployment takes with vllm; the champion and a candidate are in"
        " memory beside each other.",
    )
    engine_slots: int = Field(8, ge=1, le=256, description="Answers that one deployment generates at a time.")
    engine_threads: int = Field(0, ge=0, le=256, description="Threads of the engine; 0 takes the number of cores.")
    keep_content: bool = Field(True, description="Whether questions and answers are kept for feedback.")
    load_timeout_s: float = Field(120.0, gt=0, le=3600, description="Longest wait for a model to load.")
    reconcile_s: float = Field(3.0, gt=0, le=300, description="Time between looks at what Triton holds.")
