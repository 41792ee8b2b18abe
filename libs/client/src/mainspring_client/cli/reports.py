"""`datasets report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mainspring_client.cli.options import DEFAULT_PROJECT, Data, Json, Project
from mainspring_client.cli.versions import Version, measures_of, resolve

if TYPE_CHECKING:
    from mainspring.data.v1 import data_service_pb2, report_pb2
    from mainspring_client.client import Mainspring


def report(
    version: Version,
    plot: Annotated[Path | None, typer.Option(help="Writes a PNG picture of the report here.", dir_okay=False)] = None,
    project: Project = DEFAULT_PROJECT,
    data: Data = None,
    json_: Json = False,
) -> None:
    """Shows what became of every row of a version, step by step, and how the texts changed."""
    from mainspring_client.cli.output import print_json
    from mainspring_client.cli.run import with_client

    async def body(mainspring: Mainspring) -> data_service_pb2.GetDatasetReportResponse:
        return await mainspring.data.report(await resolve(mainspring, project, version), plot=plot is not None)

    read = with_client(data, body)
    if plot is not None:
        plot.write_bytes(read.plot_png)
    if json_:
        print_json(read.dataset_report)
        return
    _print(read.dataset_report)
    if plot is not None:
        print(f"\ndrawn in {plot}")


def _print(report: report_pb2.DatasetReport) -> None:
    from mainspring_client.cli.output import print_fields, print_table

    print_fields(
        {
            "version": report.dataset_version,
            "rows in": report.input_rows,
            "  kept as they came": report.kept_unchanged_rows,
            "  kept, changed": report.kept_changed_rows,
            **{f"  refused, {_reason(refusal)}": refusal.rows for refusal in report.refusals},
        }
    )
    if report.steps:
        print()
        print_table(
            list(report.steps),
            {
                "step": lambda s: s.step,
                "passed": lambda s: s.passed_rows,
                "changed": lambda s: s.changed_rows,
                "refused": lambda s: sum(refusal.rows for refusal in s.refusals),
                "found": lambda s: ", ".join(f"{finding.name} {finding.count}" for finding in s.findings),
            },
            "no steps",
        )
    print()
    measures = measures_of(report.before, report.after)
    columns = {"texts": lambda m: m[0], "before": lambda m: m[1], "after": lambda m: m[2]}
    print_table(measures, columns, "")


def _reason(refusal: Any) -> str:
    from mainspring.data.v1 import dataset_pb2
    from mainspring_client.cli.output import enum_name

    return enum_name(dataset_pb2.RefusalReason.DESCRIPTOR, refusal.reason, "REFUSAL_REASON_").replace("_", " ")
