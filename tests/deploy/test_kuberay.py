"""deploy/kuberay: true to the packages and to the images. It was applied nowhere, which its READMEs say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mainspring_data_ingest.settings import DataIngestSettings
from mainspring_svckit.settings import ServiceSettings
from mainspring_trainer.settings import TrainerSettings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kuberay"


@dataclass(frozen=True)
class Deployment:
    """A Ray cluster, how it is told of, and who uses it."""

    manifest: str
    readme: str
    dockerfile: str
    installs: str
    service: str
    settings: type[ServiceSettings]

    @property
    def parts(self) -> list[Any]:
        return list(yaml.safe_load_all((FOLDER / self.manifest).read_text()))

    @property
    def containers(self) -> list[dict[str, Any]]:
        spec = self.parts[0]["spec"]
        groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
        return [container for group in groups for container in group["template"]["spec"]["containers"]]

    @property
    def told(self) -> str:
        return (FOLDER / self.readme).read_text()


DEPLOYMENTS = [
    Deployment(
        "cluster.yaml",
        "README.md",
        "deploy/docker/ray.Dockerfile",
        "./services/data-ingest[ray]",
        "mainspring-data-ingest",
        DataIngestSettings,
    ),
    Deployment(
        "training.yaml",
        "TRAINING.md",
        "services/trainer/Dockerfile",
        "./services/trainer/worker${WORKER_EXTRAS}",
        "mainspring-trainer",
        TrainerSettings,
    ),
]
NEEDED = {"registry_address": "registry:50051", "data_ingest_address": "data-ingest:50051", "cache_dir": "cache"}
"""Settings of the trainer that have nothing to do with Ray."""
each = pytest.mark.parametrize("deployed", DEPLOYMENTS, ids=lambda deployed: deployed.service)


@each
def test_the_cluster_has_the_version_of_ray_that_the_packages_have(deployed: Deployment) -> None:
    version = deployed.parts[0]["spec"]["rayVersion"]
    assert f"ray=={version}" in (ROOT / "constraints.txt").read_text().splitlines()


@each
def test_nodes_and_service_run_the_image_that_is_built_with_ray(deployed: Deployment) -> None:
    assert deployed.installs in (ROOT / deployed.dockerfile).read_text()
    for container in deployed.containers:
        assert f"docker build -f {deployed.dockerfile} " in deployed.told
        assert f"-t {container['image']} " in deployed.told


@each
def test_a9_nodes_take_callers_with_the_token_only_and_from_their_service_only(deployed: Deployment) -> None:
    cluster, policy = deployed.parts
    for container in deployed.containers:
        names = {variable["name"]: variable for variable in container["env"]}
        assert names["RAY_AUTH_MODE"]["value"] == "token"
        assert "secretKeyRef" in names["RAY_AUTH_TOKEN"]["valueFrom"]
    assert policy["spec"]["podSelector"]["matchLabels"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    sources = [source for rule in policy["spec"]["ingress"] for source in rule["from"]]
    assert all("podSelector" in source for source in sources)
    assert {"app.kubernetes.io/name": deployed.service} in [source["podSelector"]["matchLabels"] for source in sources]


@each
def test_what_the_readme_sets_are_settings(deployed: Deployment) -> None:
    found = dict(re.findall(r"^MAINSPRING_(\w+)=(\S+)", deployed.told, re.M))
    values = {name.lower(): value for name, value in found.items()}
    assert values.keys() <= deployed.settings.model_fields.keys()
    made = deployed.settings.model_validate({**NEEDED, **values})
    assert f"{deployed.parts[0]['metadata']['name']}-head-svc" in values["ray_address"]
    assert "ray" in {getattr(made, "engine", ""), getattr(made, "executor", "")}
