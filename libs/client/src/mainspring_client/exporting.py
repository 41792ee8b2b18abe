"""A version as a folder that other tools open: Hugging Face's layout, or an MLflow model around it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mainspring.registry.v1 import model_pb2
from mainspring_client import mlflow_loader
from mainspring_client.registry import Registry
from mainspring_proof import folders
from mainspring_proof.keys import TrustedKeys
from mainspring_proof.statements import RELEASE_FILE, SIGNATURE_FILE, export_path
from mainspring_svckit.errors import PreconditionFailed

FORMATS = ("huggingface", "mlflow")
_LOADER = "mainspring_mlflow_loader"
_NEEDED = ("torch>=2.13", "transformers>=5.23", "peft>=0.21", "safetensors>=0.8", "jinja2>=3.1")
"""What the loader opens a version with."""


async def export(
    registry: Registry,
    version: model_pb2.ModelVersion,
    folder: Path,
    *,
    kind: str,
    trusted: TrustedKeys | None,
    told: Callable[[str], None],
) -> Path:
    """Fetches a version's files, its card, its signed manifest and that of the release that lets it serve.

    Args:
        registry: Where to fetch from.
        version: What to fetch.
        folder: Where to; must be new or empty.
        kind: One of `FORMATS`.
        trusted: Keys to verify the folder with at the end; None leaves that to the reader.
        told: Called with each file's name.

    Returns:
        The folder with the files.

    Raises:
        PreconditionFailed: FOLDER_NOT_EMPTY; FILES_DIFFER, what came is not what the version says; or as
            `mainspring_proof.folders.verify_folder`.
    """
    if folder.exists() and any(folder.iterdir()):
        raise PreconditionFailed("FOLDER_NOT_EMPTY", f"{folder} holds something already; name a new folder")
    files = folder / "model" if kind == "mlflow" else folder
    files.mkdir(parents=True, exist_ok=True)
    for role, artifact in sorted(version.artifacts.items()):
        told(role)
        if await registry.download(version.name, role, files / export_path(role)) != artifact.sha256:
            raise PreconditionFailed("FILES_DIFFER", f"{role} of {version.name} came with other bytes than it should")
    await registry.download(version.name, SIGNATURE_FILE, files / SIGNATURE_FILE)
    (files / folders.CARD_FILE).write_text(await registry.card(version.name), encoding="utf-8")
    model = await registry.model(version.name.rsplit("/versions/", 1)[0])
    async for release in registry.releases(model.name):
        if release.name == model.active_release and release.model_version == version.name:
            await registry.download(release.name, RELEASE_FILE, files / RELEASE_FILE)
        break
    if trusted is not None:
        folders.verify_folder(files, trusted)
    if kind == "mlflow":
        _write_mlmodel(folder, version)
    return files


def _write_mlmodel(folder: Path, version: model_pb2.ModelVersion) -> None:
    """The files that make a folder an MLflow model; JSON is YAML.

    A flavour of our own says where it comes from. What transformers open is a `python_function` as well.
    """
    flavors: dict[str, Any] = {
        "mainspring": {
            "data": "model",
            "model_version": version.name,
            "manifest_sha256": version.manifest.sha256,
            "base_model_version": version.base_model_version,
            "kind": model_pb2.ModelKind.Name(version.kind).removeprefix("MODEL_KIND_").lower(),
        }
    }
    opened = any((folder / "model" / file).exists() for file in ("config.json", "adapter_config.json"))
    if opened and version.kind != model_pb2.MODEL_KIND_EMBEDDING:
        flavors["python_function"] = _write_loader(folder, version)
    described = {
        "artifact_path": "model",
        "flavors": flavors,
        "metadata": {"dataset_version": version.lineage.dataset_version, "licence": version.licence},
        "utc_time_created": version.create_time.ToDatetime().isoformat(sep=" "),
        "model_uuid": version.manifest.sha256[:32],
    }
    (folder / "MLmodel").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def _write_loader(folder: Path, version: model_pb2.ModelVersion) -> dict[str, Any]:
    """The loader that travels with a version, and what it needs; returns the flavour that leads to it."""
    (folder / "code").mkdir()
    shutil.copyfile(mlflow_loader.__file__, folder / "code" / f"{_LOADER}.py")
    (folder / "requirements.txt").write_text("\n".join(_NEEDED) + "\n", encoding="utf-8")
    environment = {"python": "3.11", "build_dependencies": ["pip"], "dependencies": ["-r requirements.txt"]}
    (folder / "python_env.yaml").write_text(json.dumps(environment) + "\n", encoding="utf-8")
    return {
        "loader_module": _LOADER,
        "data": "model",
        "code": "code",
        # Only what has a value here may be given another when it is loaded.
        "config": {"base_model": "", "base_model_version": version.base_model_version, "max_new_tokens": 256},
        "env": {"virtualenv": "python_env.yaml"},
    }
