"""What a run works on, looked up at the services that own it and brought to this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mainspring_svckit.errors import NotFound, PreconditionFailed
from mainspring_svckit.names import TrainingRunName
from mainspring_svckit.values import ArtifactRef
from mainspring_trainer.application.parents import CONFIG, WEIGHTS, parent_of
from mainspring_trainer.application.ports import ModelVersion, Ports
from mainspring_trainer.domain.manifests import TRAIN, VALIDATION, Manifest, Shard, read_manifest
from mainspring_trainer.domain.recipes import Method
from mainspring_trainer.domain.runs import Dataset, Helper, Inputs, Parent, TrainingRun

SPEC_SCHEMA = "mainspring.training_spec.v1"
_HF, _ADAPTER = "hf/", "adapter/"


@dataclass(frozen=True)
class Compute:
    """How this trainer computes.

    Attributes:
        threads: Threads of a matrix product.
        precision: `fp32`, `bf16`, or `auto`.
        device: `cpu`, `cuda`, or `auto` for a GPU when there is one.
        micro_batch_tokens: Padded tokens that go through the model at once; bounds memory. 0 for what suits the device.
        max_validation_rows: More are not looked at.
    """

    threads: int
    precision: str
    device: str
    micro_batch_tokens: int
    max_validation_rows: int


async def look_up(ports: Ports, run: TrainingRun) -> Inputs:
    """Everything that the run needs, by digest.

    Raises:
        PreconditionFailed: DATASET_UNKNOWN, BASE_MODEL_UNKNOWN, BASE_MODEL_UNUSABLE, HELPER_MODEL_UNUSABLE,
            PARENT_UNUSABLE.
        Unavailable: Another service could not be asked.
    """
    dataset = run.dataset or await ports.datasets.version(run.dataset_version)
    if dataset is None:
        message = f"{run.dataset_version} does not exist; publish it, then create the run again"
        raise PreconditionFailed("DATASET_UNKNOWN", message, {"datasetVersion": run.dataset_version})
    base_name = run.recipe.base_model_version
    base = await ports.models.version(base_name)
    if base is None:
        message = f"{base_name} does not exist; import the foundation model or mend {run.recipe.name}"
        raise PreconditionFailed("BASE_MODEL_UNKNOWN", message, {"baseModelVersion": base_name})
    files = _base_files(base)
    kind, what = ("EMBEDDING", "embedding") if run.recipe.method is Method.EMBEDDING else ("FOUNDATION", "foundation")
    weights = any(name.endswith(".safetensors") for name in files)
    if base.kind != kind or "config.json" not in files or (kind == "EMBEDDING" and not weights):
        message = f"{base_name} is no {what} model with Hugging Face files; import one and name it in the recipe"
        raise PreconditionFailed("BASE_MODEL_UNUSABLE", message, {"baseModelVersion": base_name})
    parent, helper = await parent_of(ports, run), await _helper(ports, run)
    return Inputs(base_files=files, dataset=dataset, parent=parent, helper=helper)


def _base_files(version: ModelVersion) -> dict[str, ArtifactRef]:
    return {role.removeprefix(_HF): file for role, file in version.files.items() if role.startswith(_HF)}


async def _helper(ports: Ports, run: TrainingRun) -> Helper | None:
    """The model that teaches or gives rewards.

    Raises:
        PreconditionFailed: HELPER_MODEL_UNUSABLE, it does not exist or has not the files.
    """
    name = run.recipe.helper_model_version
    if not name:
        return None
    version = await ports.models.version(name)
    base = version
    adapter: dict[str, ArtifactRef] = {}
    if version is not None and {CONFIG, WEIGHTS} <= set(version.files) and version.kind == "ADAPTER":
        base = await ports.models.version(version.base_model_version)
        adapter = {role.removeprefix(_ADAPTER): version.files[role] for role in (CONFIG, WEIGHTS)}
    files = _base_files(base) if base is not None else {}
    if "config.json" not in files:
        message = f"{name} does not exist, or has no Hugging Face files; name another version in {run.recipe.name}"
        raise PreconditionFailed("HELPER_MODEL_UNUSABLE", message, {"modelVersion": name})
    return Helper(name, files, adapter)


async def fetch(ports: Ports, run: TrainingRun, inputs: Inputs, compute: Compute) -> dict[str, Any]:
    """Brings the files here and describes the run for its process.

    Raises:
        PreconditionFailed: DATASET_MISMATCH, NO_TRAINING_ROWS, or a file is damaged.
        NotFound: A file is not in the store.
        Unavailable: The store could not be reached.
    """
    project = TrainingRunName.parse(run.name).project
    manifest = await _manifest(ports, project, inputs.dataset)
    if not manifest.rows(TRAIN):
        message = f"{run.dataset_version} has no rows in its train split; ingest more rows"
        raise PreconditionFailed("NO_TRAINING_ROWS", message, {"datasetVersion": run.dataset_version})
    recipe = run.recipe
    return {
        "schema": SPEC_SCHEMA,
        "run": run.name,
        "base_model_version": recipe.base_model_version,
        "base_model": await _folder(ports, project, inputs.base_files),
        **recipe.settings(),
        "train": await _shards(ports, project, manifest, TRAIN),
        "validation": await _shards(ports, project, manifest, VALIDATION),
        "parent": await _parent_files(ports, project, inputs.parent),
        "helper": await _helper_files(ports, project, inputs.helper),
        "resume_from": await _checkpoint(ports, project, run),
        "precision": run.precision if run.precision != "auto" else compute.precision,
        "device": compute.device,
        "threads": compute.threads,
        "micro_batch_tokens": compute.micro_batch_tokens,
        "max_validation_rows": compute.max_validation_rows,
    }


async def _manifest(ports: Ports, project: str, dataset: Dataset) -> Manifest:
    return read_manifest(dataset, await ports.files.read(project, dataset.manifest))


async def _parent_files(ports: Ports, project: str, parent: Parent | None) -> dict[str, Any] | None:
    if parent is None:
        return None
    files = {"adapter_config.json": parent.adapter_config, "adapter_model.safetensors": parent.adapter_weights}
    known: list[dict[str, Any]] = []
    if parent.dataset is not None:
        manifest = await _manifest(ports, project, parent.dataset)
        known = [item for split in manifest.splits for item in await _shards(ports, project, manifest, split)]
    return {"adapter": await _folder(ports, project, files), "known": known}


async def _helper_files(ports: Ports, project: str, helper: Helper | None) -> dict[str, Any] | None:
    if helper is None:
        return None
    adapter = await _folder(ports, project, helper.adapter_files) if helper.adapter_files else None
    return {"base_model": await _folder(ports, project, helper.base_files), "adapter": adapter}


async def _shards(ports: Ports, project: str, manifest: Manifest, split: str) -> list[dict[str, Any]]:
    shards: tuple[Shard, ...] = manifest.splits.get(split, ())
    return [{"path": str(await ports.files.fetch(project, shard.file)), "rows": shard.rows} for shard in shards]


async def _folder(ports: Ports, project: str, files: Mapping[str, ArtifactRef]) -> str:
    return str(await ports.files.fetch_folder(project, files))


async def _checkpoint(ports: Ports, project: str, run: TrainingRun) -> str | None:
    """The newest checkpoint that is whole, or None: then the run begins again."""
    for checkpoint in run.checkpoints:
        try:
            return str(await ports.files.fetch(project, checkpoint.file))
        except (NotFound, PreconditionFailed):
            continue
    return None
