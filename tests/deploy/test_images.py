"""Dockerfiles: linted, and what they copy and install is there."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted([*ROOT.glob("services/*/Dockerfile"), *ROOT.glob("deploy/docker/*.Dockerfile")])
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
PACKAGES = {
    tomllib.loads(path.read_text())["project"]["name"]: path.parent
    for pattern in ("libs/*/pyproject.toml", "services/*/pyproject.toml", "services/*/*/pyproject.toml")
    for path in ROOT.glob(pattern)
}


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def instructions(path: Path) -> list[str]:
    """Instructions with their continuation lines joined; comments left out."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    return [line.strip() for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines() if line.strip()]


def copied(path: Path) -> list[str]:
    """What is copied from the repository."""
    found: list[str] = []
    for instruction in instructions(path):
        if instruction.startswith("COPY ") and "--from=" not in instruction:
            found += instruction.split()[1:-1]
    return found


def ignored(relative: Path) -> bool:
    """Whether .dockerignore keeps a file out of the build."""
    text = relative.as_posix()
    parents = [text, *(parent.as_posix() for parent in relative.parents)]
    return any(
        fnmatch.fnmatch(one, pattern) or (pattern.startswith("**/") and fnmatch.fnmatch(one, pattern[3:]))
        for one in parents
        for pattern in IGNORED
    )


def needed(package: str) -> set[str]:
    """Distributions of this repository that one needs, at any depth."""
    project = tomllib.loads((PACKAGES[package] / "pyproject.toml").read_text())["project"]
    direct = {re.split(r"[\[<>=,; ]", one)[0] for one in project["dependencies"]} & set(PACKAGES)
    return direct.union(*(needed(one) for one in direct))


def test_every_service_has_a_dockerfile() -> None:
    services = {path.parent for path in ROOT.glob("services/*/pyproject.toml")}
    assert {path.parent for path in DOCKERFILES if path.name == "Dockerfile"} == services


def test_they_pass_hadolint() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "hadolint"), "--no-color", *map(str, DOCKERFILES)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=ids)
def test_what_is_copied_exists_and_links_lead_to_what_is_copied(path: Path) -> None:
    sources = copied(path)
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(Path(source)), f"{source} is in .dockerignore"
        for file in (ROOT / source).rglob("*"):
            if file.is_symlink() and not ignored(file.relative_to(ROOT)):
                target = file.resolve().relative_to(ROOT)
                used = any(target.is_relative_to(one) for one in sources)
                lib = file.relative_to(ROOT).parts[:2]
                installed = any(
                    "/".join(lib) in instruction for instruction in instructions(path) if "pip" in instruction
                )
                assert used or not installed, f"{file} leads to {target}, which is not copied"


@pytest.mark.parametrize("path", DOCKERFILES, ids=ids)
def test_packages_are_installed_with_all_of_ours_that_they_need(path: Path) -> None:
    by_folder = {folder.relative_to(ROOT).as_posix(): name for name, folder in PACKAGES.items()}
    for instruction in instructions(path):
        for command in re.findall(r"pip install ([^&]*)", instruction):
            given = {by_folder[one[2:].partition("[")[0]] for one in command.split() if one.startswith("./")}
            assert given.union(*(needed(one) for one in given)) == given
            # Where nothing is resolved, nothing needs a constraint.
            assert not given or "-c constraints" in command or "--no-deps" in command


@pytest.mark.parametrize("path", DOCKERFILES, ids=ids)
def test_they_do_not_run_as_root_and_their_health_is_asked(path: Path) -> None:
    last = instructions(path)
    last = last[max(i for i, line in enumerate(last) if line.startswith("FROM ")) :]
    assert any(line == "USER 10001" for line in last)
    assert any(line.startswith("HEALTHCHECK ") for line in last)
    assert not any(line.endswith(":latest") for line in last if line.startswith("FROM "))


@pytest.mark.parametrize("path", [path for path in DOCKERFILES if path.name == "Dockerfile"], ids=ids)
def test_the_command_is_the_services_own(path: Path) -> None:
    project = tomllib.loads((path.parent / "pyproject.toml").read_text())["project"]
    (entry,) = [line for line in instructions(path) if line.startswith("ENTRYPOINT ")]
    (command,) = project["scripts"]
    assert entry == f'ENTRYPOINT ["{command}"]'
    assert os.access(Path(sys.executable).parent / command, os.X_OK)
