"""`datasets erase`, `datasets who-saw` and `datasets erasures`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Limit, Project

if TYPE_CHECKING:
    from mainspring.data.v1 import erasure_pb2
    from mainspring.registry.v1 import lineage_pb2
    from mainspring_client.client import Mainspring


def register(datasets: typer.Typer) -> None:
    """Adds the commands to the group."""
    datasets.command()(erase)
    datasets.command()(who_saw)
    datasets.command("erasures")(erasures)


_Text = Annotated[str, typer.Option(help="Text that tells of a person, such as a name or an address.")]
_Row = Annotated[list[str] | None, typer.Option(help="Id of a row; may come several times.")]
_Source = Annotated[str, typer.Option(help="SHA-256 of a source: all rows that come from it.")]


def erase(
    text: _Text = "",
    row: _Row = None,
    source: _Source = "",
    yes: Annotated[bool, typer.Option("--yes", help="Erase without asking.")] = False,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Erases a person, rows or a document from every dataset version of the project, and proves it.

    Versions that held something get successors without it; their bytes leave the store. Needs the role admin.
    """
    selector = _selector(text, row, source)
    if not yes:
        typer.confirm(f"erase it from all dataset versions of {project}? It cannot be brought back", abort=True)
    _erase(project, selector, data, as_json=json_)


def who_saw(
    text: _Text = "",
    row: _Row = None,
    source: _Source = "",
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Shows every dataset version that holds a person, rows or a document, and everything that was made from these:
    runs, model versions, evaluations, decisions, releases.

    Nothing is changed. Needs the role contributor.
    """
    from mainspring.registry.v1 import lineage_pb2
    from mainspring_client.cli.output import Ticker, done_text, print_json
    from mainspring_client.cli.run import with_client

    selector = _selector(text, row, source)

    async def body(mainspring: Mainspring) -> lineage_pb2.DataTrace:
        found = lineage_pb2.DataTrace()
        with Ticker(quiet=json_) as ticker:
            async for update in mainspring.registry.trace(project, selector):
                ticker.tell(done_text(update.progress))
                found = update.trace
        return found

    found = with_client(data, body)
    if json_:
        print_json(found)
    else:
        _print_trace(found)


def _selector(text: str, row: list[str] | None, source: str) -> erasure_pb2.ErasureSelector:
    from mainspring.data.v1 import erasure_pb2

    if sum(map(bool, (text, row, source))) != 1:
        raise typer.BadParameter("name one of --text, --row and --source")
    selector = erasure_pb2.ErasureSelector()
    if text:
        selector.text = text
    elif row:
        selector.rows.row_ids.extend(row)
    elif source:
        selector.source_sha256 = source
    return selector


def _print_trace(found: lineage_pb2.DataTrace) -> None:
    from mainspring_client.cli.lineage import print_walk
    from mainspring_client.cli.output import print_fields, print_table, short

    print_fields({"search": found.search, "versions searched": found.searched_versions})
    print_table(
        found.versions,
        {
            "version": lambda v: short(v.dataset_version),
            "rows": lambda v: "deleted, presumed" if v.presumed else v.rows,
            "refused rows": lambda v: v.refused_rows,
            "sources": lambda v: v.sources,
        },
        "nothing was found",
    )
    if found.nodes:
        print("\nwhat learned from it, and what came of that")
        print_walk(found, downstream=True)


def _erase(project: str, selector: erasure_pb2.ErasureSelector, data: Data, *, as_json: bool) -> None:
    from mainspring.data.v1 import erasure_pb2
    from mainspring_client.cli.output import Ticker, print_json, progress_text
    from mainspring_client.cli.run import with_client
    from mainspring_svckit.errors import PreconditionFailed
    from mainspring_svckit.status import error_info

    async def body(mainspring: Mainspring) -> erasure_pb2.Erasure:
        with Ticker(quiet=as_json) as ticker:
            work = await mainspring.erasures.create(project, selector)
            async for update in mainspring.erasures.watch(work.name):
                ticker.tell(progress_text(update))
                work = update
        return work

    done = with_client(data, body)
    if done.state != erasure_pb2.Erasure.STATE_SUCCEEDED:
        raise PreconditionFailed(error_info(done.error).reason or "ERASURE_FAILED", done.error.message)
    if as_json:
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
            "kind": lambda e: "search" if e.search_only else "erasure",
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
            "proof": done.proof.sha256 or "nothing was removed",
            "models that learned from it": ", ".join(map(short, done.model_versions))
            or ("none" if done.lineage_known else "not known: no registry was asked"),
            "released as": ", ".join(map(short, done.releases)) or "none",
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
