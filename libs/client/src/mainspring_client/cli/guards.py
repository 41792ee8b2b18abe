"""`guards create | show | list`: what may not come in and go out, as versioned artifacts that a release can name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project, group

guards = group("Guard policies: what may not come in and go out, which a release can name.")


@guards.command("create")
def create_guard(
    policy: Annotated[str, typer.Argument(help="Guard policy id.")],
    file: Annotated[Path, typer.Argument(help="YAML with 'rules'; examples/guard-policy.yaml is one.")],
    comment: Annotated[str, typer.Option(help="What changed, in words.")] = "",
    label: Annotated[str, typer.Option(help="Label to point at the version, for example production.")] = "",
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Writes a new version of a guard policy; the same rules again are the same version."""
    from mainspring.registry.v1 import guard_policy_pb2
    from mainspring_client.cli.lines import write_version
    from mainspring_client.configuration import load_document, read_message
    from mainspring_client.resources import expand
    from mainspring_svckit.names import GuardPolicyName

    name = expand(GuardPolicyName, project, policy, "guard policy")
    wish = read_message(guard_policy_pb2.GuardPolicyVersion, load_document(file), str(file))
    wish.comment = comment or wish.comment
    write_version(lambda mainspring: mainspring.guards, name, wish, label, data, as_json=json_)


@guards.command("show")
def show_guard(
    policy: Annotated[str, typer.Argument(help="POLICY/VERSION or POLICY@LABEL.")],
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
) -> None:
    """Prints a version of a guard policy, as JSON."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand_version
    from mainspring_svckit.names import GuardPolicyName

    name = expand_version(GuardPolicyName, project, policy)
    print_json(with_client(data, lambda mainspring: mainspring.guards.version(name)))


@guards.command("list")
def list_guards(project: Project = DEFAULT_PROJECT, limit: Limit = 50, data: Data = None, json_: Json = False) -> None:
    """Lists guard policies by name."""
    from mainspring_client.cli.output import print_json, print_lines_of_versions
    from mainspring_client.cli.run import collect, with_client

    found = with_client(data, lambda mainspring: collect(mainspring.guards.policies(project), limit))
    if json_:
        print_json(found)
    else:
        print_lines_of_versions(found, "guard policy", f"no guard policies in {project}")
