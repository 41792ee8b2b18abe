"""The page of datasets: their versions, what was refused of them, and the report of each as a picture."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable

from nicegui import ui
from starlette.requests import Request

from mainspring.data.v1 import dataset_pb2
from mainspring_console.adapters.services import View
from mainspring_console.domain.wording import short, state
from mainspring_console.transport.frame import ViewOf, heading, page, route, shown, table


def register_data(view_of: ViewOf) -> None:
    """Makes the page known to NiceGUI."""

    @route("/data")
    async def data(request: Request) -> None:
        view = view_of(request)
        with page("Data", view.project):

            async def datasets() -> None:
                found = await view.datasets()
                if not found:
                    ui.label("There are no datasets yet: 'mainspring datasets import FILE' makes one.")
                for dataset in found:
                    heading(short(dataset.name))
                    for version in await view.dataset_versions(dataset.name):
                        await _version(view, version)

            await shown(datasets)


async def _version(view: View, version: dataset_pb2.DatasetVersion) -> None:
    kept = {state(dataset_pb2.Split.Name(split.split)): split.rows for split in version.splits}
    refused = sum(refusal.rows for refusal in version.refusals)
    counts = ", ".join(f"{rows} {name}" for name, rows in kept.items())
    title = f"version {version.name.rsplit('/', 1)[-1]}: {version.input_rows} rows in, {counts}, {refused} refused"
    with ui.expansion(title).classes("w-full"):
        ui.label(f"root digest {version.root_sha256}").classes("font-mono text-sm break-all")
        reasons = [(state(dataset_pb2.RefusalReason.Name(r.reason)[8:]), r.rows) for r in version.refusals]
        table(("Refused because", "Rows"), reasons, empty="No row was refused.")

        async def refused_rows() -> None:
            rows = [
                (row.line, row.step, state(dataset_pb2.RefusalReason.Name(row.reason)[8:]), row.detail, row.excerpt)
                for row in await view.refused_rows(version.name)
            ]
            table(("Line", "Step", "Reason", "Detail", "Excerpt"), rows, empty="None.")

        async def report() -> None:
            picture = base64.b64encode(await view.report_picture(version.name)).decode()
            # Its letters are too small to read in a narrow window, where it is scrolled.
            with ui.element("div").classes("w-full overflow-x-auto"):
                image = ui.image(f"data:image/png;base64,{picture}").classes("min-w-[60rem]")
                image.props(f'alt="report of {short(version.name)}"')

        async def show(what: Callable[[], Awaitable[None]]) -> None:
            place.clear()
            with place:
                waiting = ui.spinner(size="lg").props("role=status aria-label=working")
                await shown(what)
            if not waiting.is_deleted:  # Whoever asks again meanwhile cleared the place.
                waiting.delete()

        with ui.row():
            ui.button("Show report", on_click=lambda: show(report)).props("outline")
            if refused:
                ui.button("Show refused rows", on_click=lambda: show(refused_rows)).props("outline")
        place = ui.column().classes("w-full")
