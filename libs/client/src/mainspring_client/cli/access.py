"""`token` and `env`: what a program needs to call the local stack."""

from __future__ import annotations

from typing import Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Project, group

token_app = group("Tokens for callers of the local stack.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(token_app, name="token")
    app.command()(env)


@token_app.command("create")
def create_token(
    role: Annotated[
        list[str], typer.Option("--role", help="viewer, contributor, annotator, releaser or admin; may be repeated.")
    ],
    project: Annotated[
        list[str] | None, typer.Option("--project", "-p", help="Project that it is good for; may be repeated.")
    ] = None,
    subject: Annotated[str, typer.Option(help="Who it is for; shown as the author of what they do.")] = "person",
    days: Annotated[float, typer.Option(min=0.01, max=3650, help="How long it is good for.")] = 30,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Makes a token and prints it; it is not kept anywhere."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.stack import credentials
    from mainspring_client.stack.folder import DataFolder
    from mainspring_svckit.auth import ROLES
    from mainspring_svckit.errors import PreconditionFailed
    from mainspring_svckit.names import is_id

    people = [name for name in ROLES if name != "service"]
    if wrong := [name for name in role if name not in people]:
        raise typer.BadParameter(f"there is no role {', '.join(wrong)}; there are {', '.join(people)}")
    projects = project or []
    if not projects or any(name != "*" and not is_id(name) for name in projects):
        raise typer.BadParameter("name at least one project by its id, or '*' for all", param_hint="--project")
    folder = DataFolder.at(data)
    if not folder.issuer.exists():
        raise PreconditionFailed("STACK_NEVER_STARTED", f"{folder.root} has no key yet; run 'mainspring up' once")
    token = credentials.issuer(folder).issue(subject, projects, role, days * 86_400)
    if json_:
        print_json({"token": token, "subject": subject, "projects": projects, "roles": role, "days": days})
    else:
        print(token)


def env(data: Data = None, project: Project = DEFAULT_PROJECT) -> None:
    """Prints the environment of a program that calls the stack: eval "$(mainspring env)".

    MAINSPRING_ADDRESS, MAINSPRING_TOKEN and MAINSPRING_NATS_URL for gRPC and events; OPENAI_BASE_URL, OPENAI_API_KEY
    and OPENAI_PROJECT_ID, which OpenAI's own clients read.
    """
    from shlex import quote

    from mainspring_client.stack import control
    from mainspring_client.stack.folder import DataFolder

    folder = DataFolder.at(data)
    addresses = control.require_running(folder).addresses
    token = folder.admin_token.read_text().strip()
    values = {
        "MAINSPRING_ADDRESS": ",".join(f"{name}={address}" for name, address in addresses["services"].items()),
        "MAINSPRING_TOKEN": token,
        "MAINSPRING_NATS_URL": folder.subscriber_url.read_text().strip(),
        "OPENAI_BASE_URL": f"{addresses['gateway']}/v1",
        "OPENAI_API_KEY": token,
        "OPENAI_PROJECT_ID": project,
    }
    for name, value in values.items():
        print(f"export {name}={quote(value)}")
