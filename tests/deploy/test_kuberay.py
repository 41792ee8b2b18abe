"""deploy/kuberay: true to the packages and to the image. It was applied nowhere, which its README says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from mainspring_data_ingest.settings import DataIngestSettings

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kuberay"
ROOT = FOLDER.parents[1]
CLUSTER, POLICY = list(yaml.safe_load_all((FOLDER / "cluster.yaml").read_text()))
GROUPS: list[dict[str, Any]] = [CLUSTER["spec"]["headGroupSpec"], *CLUSTER["spec"]["workerGroupSpecs"]]
CONTAINERS = [container for group in GROUPS for container in group["template"]["spec"]["containers"]]


def test_the_cluster_has_the_version_of_ray_that_the_packages_have() -> None:
    assert f"ray=={CLUSTER['spec']['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_nodes_and_service_run_the_image_that_is_built_with_ray() -> None:
    dockerfile = (ROOT / "deploy" / "docker" / "ray.Dockerfile").read_text()
    assert "./services/data-ingest[ray]" in dockerfile
    for container in CONTAINERS:
        assert f"-t {container['image']} " in dockerfile
        assert f"-t {container['image']} " in (FOLDER / "README.md").read_text()


def test_a9_nodes_take_callers_with_the_token_only_and_from_data_ingest_only() -> None:
    for container in CONTAINERS:
        names = {variable["name"]: variable for variable in container["env"]}
        assert names["RAY_AUTH_MODE"]["value"] == "token"
        assert "secretKeyRef" in names["RAY_AUTH_TOKEN"]["valueFrom"]
    assert POLICY["spec"]["podSelector"]["matchLabels"] == {"ray.io/cluster": CLUSTER["metadata"]["name"]}
    assert all("podSelector" in source for rule in POLICY["spec"]["ingress"] for source in rule["from"])


def test_what_the_readme_sets_are_settings() -> None:
    found = dict(re.findall(r"^MAINSPRING_(\w+)=(\S+)$", (FOLDER / "README.md").read_text(), re.M))
    values = {name.lower(): value for name, value in found.items()}
    assert values.keys() <= DataIngestSettings.model_fields.keys()
    assert DataIngestSettings.model_validate(values).engine == "ray"
    assert f"{CLUSTER['metadata']['name']}-head-svc" in values["ray_address"]
