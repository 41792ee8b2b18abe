"""`releases check | create | approve | history`, `policies`, `prompts`: what the gate asks, and whose word."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project, group

Version = Annotated[str, typer.Argument(help="MODEL/VERSION or MODEL@ALIAS.")]
policies = group("What a version needs to be released.")
prompts = group("Prompts as versioned artifacts, which a release can name.")


def register(releases: typer.Typer) -> None:
    """Adds the commands."""
    for command in (check, create, approve, history):
        releases.command()(command)


def check(version: Version, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Says what the gate would say of a version now, and changes nothing. Exit status 1 when it is not allowed."""
    from mainspring.registry.v1 import registry_service_pb2 as pb
    from mainspring_client.cli.output import print_json, printable
    from mainspring_client.cli.run import with_client
    from mainspring_client.client import Mainspring
    from mainspring_client.resources import expand_model

    async def body(mainspring: Mainspring) -> pb.CheckReleaseResponse:
        found = await mainspring.registry.version(expand_model(project, version))
        return await mainspring.registry.check_release(found.name)

    found = with_client(data, body)
    if json_:
        print_json(found)
    else:
        for rule in found.rules:
            print(f"{'kept  ' if rule.passed else 'BROKEN'} {rule.rule}: {printable(rule.explanation)}")
        print("allowed" if found.allowed else "not allowed")
    if not found.allowed:
        raise typer.Exit(1)


def create(version: Version, project: Project = DEFAULT_PROJECT, data: Data = None, json_: Json = False) -> None:
    """Releases a version by hand, when the gate allows it now."""
    from mainspring.registry.v1 import release_pb2
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.client import Mainspring
    from mainspring_client.resources import expand_model

    async def body(mainspring: Mainspring) -> release_pb2.Release:
        found = await mainspring.registry.version(expand_model(project, version))
        return await mainspring.registry.release(found.name)

    made = with_client(data, body)
    if json_:
        print_json(made)
    else:
        print(made.name)


def approve(
    version: Version,
    comment: Annotated[str, typer.Option(help="Why, in words; it is kept.")] = "",
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Approves a version in your own name; the last approval that was missing releases it."""
    from mainspring.registry.v1 import registry_service_pb2 as pb
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.client import Mainspring
    from mainspring_client.resources import expand_model

    async def body(mainspring: Mainspring) -> pb.CreateApprovalResponse:
        found = await mainspring.registry.version(expand_model(project, version))
        return await mainspring.registry.approve(found, comment)

    made = with_client(data, body)
    if json_:
        print_json(made)
        return
    print(f"{made.approval.approver} approved {made.approval.model_version}")
    print(
        f"{made.release.name} is released"
        if made.HasField("release")
        else "'mainspring releases check' says what is missing"
    )


def history(
    model: Annotated[str, typer.Argument(help="Model id.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the whole chain; exit status 1 when it is broken.")
    ] = False,
    project: Project = DEFAULT_PROJECT,
    limit: Limit = 1000,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Lists what happened to a model, oldest first: decisions, approvals, releases, and who did it."""
    from mainspring_client.cli.output import print_json, print_table, short, state_of, when
    from mainspring_client.cli.run import collect, with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import ModelName

    name = expand(ModelName, project, model, "model")
    if verify:
        said = with_client(data, lambda mainspring: mainspring.registry.verify_history(name))
        if json_:
            print_json(said)
        else:
            print(f"{said.entries} entries, newest {said.head_sha256 or '(none)'}")
            print("\n".join(said.problems) or "intact: every entry is as it was written")
        if not said.intact:
            raise typer.Exit(1)
        return
    found = with_client(data, lambda mainspring: collect(mainspring.registry.history(name), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "when": lambda e: when(e.create_time),
            "what": lambda e: state_of(e, "kind"),
            "which": lambda e: short(e.resource),
            "who": lambda e: e.actor,
            "digest": lambda e: e.sha256[:12],
        },
        f"nothing happened to {name} yet",
    )


@policies.command("show")
def show_policy(
    model: Annotated[str, typer.Argument(help="Model id.")], project: Project = DEFAULT_PROJECT, data: Data = None
) -> None:
    """Prints the policy that guards a model, as JSON; 'mainspring apply' writes it."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.errors import NotFound
    from mainspring_svckit.names import ModelName

    name = expand(ModelName, project, model, "model")
    found = with_client(data, lambda mainspring: mainspring.registry.policy_of(name))
    if found is None:
        raise NotFound("ReleasePolicy", name)
    print_json(found)


@prompts.command("write")
def write_prompt(
    prompt: Annotated[str, typer.Argument(help="Prompt id.")],
    file: Annotated[Path, typer.Argument(help="Text of the system message; {{variable}} is a place.")],
    comment: Annotated[str, typer.Option(help="What changed, in words.")] = "",
    label: Annotated[str, typer.Option(help="Label to point at the version, for example production.")] = "",
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Writes a new version of a prompt; the same text again is the same version."""
    from mainspring.common.v1 import chat_pb2
    from mainspring.registry.v1 import prompt_pb2
    from mainspring_client.cli.lines import write_version
    from mainspring_client.resources import expand
    from mainspring_svckit.names import PromptName

    message = chat_pb2.ChatMessage(role=chat_pb2.ChatMessage.ROLE_SYSTEM, content=file.read_text(encoding="utf-8"))
    wish = prompt_pb2.PromptVersion(messages=[message], comment=comment)
    name = expand(PromptName, project, prompt, "prompt")
    write_version(lambda mainspring: mainspring.prompts, name, wish, label, data, as_json=json_)


@prompts.command("show")
def show_prompt(
    prompt: Annotated[str, typer.Argument(help="PROMPT/VERSION or PROMPT@LABEL.")],
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
) -> None:
    """Prints a version of a prompt, as JSON."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand_version
    from mainspring_svckit.names import PromptName

    name = expand_version(PromptName, project, prompt)
    print_json(with_client(data, lambda mainspring: mainspring.prompts.version(name)))


@prompts.command("list")
def list_prompts(project: Project = DEFAULT_PROJECT, limit: Limit = 50, data: Data = None, json_: Json = False) -> None:
    """Lists prompts by name."""
    from mainspring_client.cli.output import print_json, print_lines_of_versions
    from mainspring_client.cli.run import collect, with_client

    found = with_client(data, lambda mainspring: collect(mainspring.prompts.prompts(project), limit))
    if json_:
        print_json(found)
        return
    print_lines_of_versions(found, "prompt", f"no prompts in {project}")
