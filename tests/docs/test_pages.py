"""What the pages say is there, is there."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from mainspring_client.cli.application import app
from mainspring_client.configuration import Configuration

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {"node_modules", ".build"} & set(path.parts) and not any(part.startswith(".venv") for part in path.parts)
)


def test_tests_that_the_architecture_names_exist() -> None:
    known = {
        name
        for path in ROOT.rglob("test_*.py")
        if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = re.findall(r"`(test_\w+)(\.\.\.)?`", (ROOT / "docs" / "ARCHITECTURE.md").read_text())
    assert len(named) >= 15
    for name, is_prefix in named:
        assert any(test.startswith(name) if is_prefix else test == name for test in known), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_example_of_a_configuration_is_one() -> None:
    configuration = Configuration.load(ROOT / "examples" / "flywheel.yaml")
    assert set(configuration.sections) == {
        "ingestion_recipe",
        "tuning_recipe",
        "evaluation_suite",
        "release_policy",
        "rollout_policy",
        "retraining_trigger",
    }


def test_the_targets_that_the_readme_names_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = "".join(page.read_text() for page in PAGES)
    assert set(re.findall(r"`make ([a-z][a-z-]+)`", pages)) <= targets


@pytest.mark.parametrize("guide", sorted((ROOT / "docs" / "guides").glob("*.md")), ids=lambda guide: guide.name)
def test_the_command_understands_what_the_guides_tell_it(guide: Path) -> None:
    programs = re.findall(r"^```sh\n(.*?)^```", guide.read_text(), re.MULTILINE | re.DOTALL)
    told = [line for program in programs for line in re.findall(r"\.venv/bin/mainspring ([^|)\n]+)", program)]
    assert told
    for line in told:
        try:
            words = shlex.split(re.sub(r"\$\w+", "x", line.partition(" > ")[0]))
        except ValueError:
            continue  # A quotation goes on behind a pipe.
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        try:
            command.make_context(command.name, words)
        except Exception as err:  # noqa: BLE001 - a file of the guide's that is not there, for example.
            assert "not exist" in str(err), line
