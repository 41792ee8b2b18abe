"""`datasets erase` and `datasets erasures`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project

if TYPE_CHECKING:
    from mainspring.data.v1 import erasure_pb2
    from mainspring_client.client import Mainspring


def register(datasets: typer.Typer) -> None:
    """Adds the commands to the group."""
    datasets.command()(erase)
    datasets.command("erasures")(erasures)


def erase(
    text: Annotated[str, typer.Option(help="Text that tells of a person, such as a name or an address.")] = "",
    row: Annotated[list[str] | None, typer.Option(help="Id of a row; may come several times.")] = None,
    source: Annotated[str, typer.Option(help="SHA-256 of a source: all rows that come from it.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Erase without asking.")] = False,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Erases a person, rows or a document from every dataset version of the project, and proves it.

    Versions that held something get successors without it; their bytes leave the store. Needs the role admin.
    """
    from mainspring.data.v1 import erasure_pb2
    from mainspring_client.cli.output import Ticker, print_json, progress_text
    from mainspring_client.cli.run import with_client
    from mainspring_svckit.errors import PreconditionFailed
    from mainspring_svckit.status import error_info

    if sum(map(bool, (text, row, source))) != 1:
        raise typer.BadParameter("name one of --text, --row and --source")
    if not yes:
        typer.confirm(f"erase it from all dataset versions of {project}? It cannot be brought back", abort=True)
    selector = erasure_pb2.ErasureSelector()
    if text:
        selector.text = text
    elif row:
        selector.rows.row_ids.extend(row)
    elif source:
        selector.source_sha256 = source

    async def body(mainspring: Mainspring) -> erasure_pb2.Erasure:
        with Ticker(quiet=json_) as ticker:
            work = await mainspring.erasures.create(project, selector)
            async for update in mainspring.erasures.watch(work.name):
                ticker.tell(progress_text(update))
                work = update
        return work

    done = with_client(data, body)
    if done.state != erasure_pb2.Erasure.STATE_SUCCEEDED:
        raise PreconditionFailed(error_info(done.error).reason or "ERASURE_FAILED", done.error.message)
    if json_:
        print_json(done)
    else:
        _print(done)


def erasures(project: Project = DEFAULT_PROJECT, limit: Limit = 50, data: Data = None, json_: Json = False) -> None:
    """Lists erasures, newest first."""
    from mainspring_client.cli.output import print_json, print_table, short, state_of, when
    from mainspring_client.cli.run import collect, with_client

    found = with_client(data, lambda mainspring: collect(mainspring.erasures.list(project), limit))
    if json_:
        print_json(found)
        return
    print_table(
        found,
        {
            "erasure": lambda e: short(e.name),
            "state": state_of,
            "versions": lambda e: len(e.versions),
            "rows": lambda e: sum(version.erased_rows for version in e.versions),
            "models": lambda e: len(e.model_versions),
            "asked for": lambda e: when(e.create_time),
        },
        f"no erasures in {project}",
    )


def _print(done: erasure_pb2.Erasure) -> None:
    from mainspring_client.cli.output import print_fields, print_table, short

    print_fields(
        {
            "erasure": done.name,
            "versions searched": done.searched_versions,
            "annotation items": ", ".join(f"{q.erased_items} of {short(q.annotation_queue)}" for q in done.queues)
            or "none",
            "uploads": f"{done.erased_uploads} removed"
            + (f", {done.unreadable_uploads} cannot be read and do not show it" if done.unreadable_uploads else ""),
            "feedback": f"{done.erased_answers} answers, {done.erased_feedback_items} judgements forgotten"
            if done.feedback_known
            else "not asked",
            "proof": done.proof.sha256,
            "models that learned from it": ", ".join(map(short, done.model_versions))
            or ("none" if done.lineage_known else "not known: no registry was asked"),
        }
    )
    print_table(
        list(done.versions),
        {
            "version": lambda v: short(v.dataset_version),
            "rows": lambda v: v.erased_rows,
            "refused rows": lambda v: v.erased_refused_rows,
            "sources": lambda v: v.erased_sources,
            "successor": lambda v: short(v.successor) or "none, no row is left",
        },
        "nothing was found",
    )
    if done.model_versions:
        print("next: train these models anew from the successors, or withdraw them with 'mainspring releases revoke'")
