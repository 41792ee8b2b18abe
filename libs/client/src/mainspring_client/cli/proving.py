"""`models export | verify | signing-key | card | tag`: a version outside, and the proof of what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Project

Version = Annotated[str, typer.Argument(help="MODEL/VERSION or MODEL@ALIAS.")]
Keys = Annotated[
    Path | None,
    typer.Option(
        help="File with the public keys (PEM) to believe [default: signing-keys.pem of the local stack's data folder].",
        show_default=False,
    ),
]


def register(models: typer.Typer) -> None:
    """Adds the commands."""
    models.command()(export)
    models.command()(verify)
    models.command("signing-key")(signing_key)
    models.command()(card)
    models.command()(tag)


def export(
    version: Version,
    folder: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    format_: Annotated[
        str, typer.Option("--format", help="huggingface, or mlflow: an MLflow model directory around the same.")
    ] = "huggingface",
    keys: Keys = None,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Writes a version's files with its card and its signed manifest, and verifies them when the keys are at hand."""
    from mainspring.registry.v1 import model_pb2
    from mainspring_client import exporting
    from mainspring_client.cli.output import Ticker, print_json
    from mainspring_client.cli.run import with_client
    from mainspring_client.client import Mainspring
    from mainspring_client.resources import expand_model

    if format_ not in exporting.FORMATS:
        raise typer.BadParameter(f"must be one of {', '.join(exporting.FORMATS)}", param_hint="--format")
    trusted = _keys(keys, data, needed=keys is not None)

    async def body(mainspring: Mainspring) -> tuple[model_pb2.ModelVersion, Path]:
        found = await mainspring.registry.version(expand_model(project, version))
        with Ticker(quiet=json_) as ticker:
            files = await exporting.export(
                mainspring.registry,
                found,
                folder.expanduser(),
                kind=format_,
                trusted=trusted,
                told=lambda role: ticker.tell(f"fetching {role}"),
            )
        return found, files

    found, files = with_client(data, body)
    if json_:
        print_json({"model_version": found.name, "folder": str(files), "verified": trusted is not None})
    else:
        print(f"{found.name} is in {files}" + (", verified" if trusted is not None else "; verify it with --keys"))


def verify(
    folder: Annotated[Path, typer.Argument(help="Folder that 'mainspring models export' wrote.")],
    keys: Keys = None,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Proves what a folder holds, without asking anybody: which version, from what data, released on whose word."""
    from mainspring_client.cli.output import print_fields, print_json
    from mainspring_proof.folders import verify_folder

    trusted = _keys(keys, data, needed=True)
    assert trusted is not None
    place = folder.expanduser()
    found = verify_folder(place / "model" if (place / "MLmodel").exists() else place, trusted)
    lineage = found.version.manifest["lineage"]
    shown: dict[str, object] = {
        "version": found.version.name,
        "manifest": found.version.manifest_sha256,
        "signed by": found.version.key_id,
        "files": len(found.version.files),
        "base manifest": found.version.manifest["base_manifest_sha256"],
        "data": lineage["dataset_version"],
        "data root": lineage["dataset_root_sha256"],
        "recipe": lineage["recipe_sha256"],
        "licence": found.version.manifest["licence"],
    }
    if found.release is not None:
        details = found.release.details
        shown |= {
            "release": found.release.name,
            "released by": details["released_by"],
            "decision": details["decision"]["name"],
            "approved by": ", ".join(approval["approver"] for approval in details["approvals"]),
        }
    if found.unsigned:
        shown["not signed"] = ", ".join(found.unsigned)
    shown = {key: value for key, value in shown.items() if value}
    if json_:
        print_json({key.replace(" ", "_"): value for key, value in shown.items()})
    else:
        print("verified: every file is as it was signed")
        print_fields(shown)


def signing_key(
    url: Annotated[
        str, typer.Argument(help="awskms:KEY, gcpkms:KEY or file:///PATH, as the registry's signing_key_url names it.")
    ],
) -> None:
    """Prints the public half (PEM) of a signing key; what signs from now on stands first among the keys to believe.

    Asks the key management service with this machine's own credentials; needs its vendor's library
    (pip install 'mainspring-proof[awskms]').
    """
    from mainspring_proof.keys import public_key

    print(public_key(url), end="")


def card(version: Version, project: Project = DEFAULT_PROJECT, data: Data = None) -> None:
    """Prints a version's model card, written from what the catalogue knows."""
    from mainspring_client.cli.run import with_client
    from mainspring_client.client import Mainspring
    from mainspring_client.resources import expand_model

    async def body(mainspring: Mainspring) -> str:
        found = await mainspring.registry.version(expand_model(project, version))
        return await mainspring.registry.card(found.name)

    print(with_client(data, body), end="")


def tag(
    version: Version,
    tags: Annotated[list[str], typer.Argument(help="KEY=VALUE; these are all that the version has afterwards.")],
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
) -> None:
    """Writes a version's tags."""
    from mainspring_client.cli.run import with_client
    from mainspring_client.client import Mainspring
    from mainspring_client.resources import expand_model

    pairs = {key: value for key, _, value in (one.partition("=") for one in tags)}

    async def body(mainspring: Mainspring) -> None:
        found = await mainspring.registry.version(expand_model(project, version))
        await mainspring.registry.tag(found.name, pairs)

    with_client(data, body)


def _keys(keys: Path | None, data: Path | None, *, needed: bool):
    from mainspring_client.stack.folder import DataFolder
    from mainspring_proof.keys import TrustedKeys

    path = keys or DataFolder.at(data).signing_keys
    return TrustedKeys.from_file(path) if needed or path.exists() else None
