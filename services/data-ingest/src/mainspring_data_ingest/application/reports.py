"""Use case of reading a version's report."""

from __future__ import annotations

from mainspring_data_ingest.application.deletions import readable
from mainspring_data_ingest.application.ports import Plotter, Ports
from mainspring_data_ingest.domain.report import Report
from mainspring_svckit.errors import NotFound, Unavailable
from mainspring_svckit.names import DatasetVersionName


class Reports:
    """Use cases of reports."""

    def __init__(self, ports: Ports, plotter: Plotter) -> None:
        self._ports, self._plotter = ports, plotter

    async def read(self, version: str, *, plot: bool) -> tuple[Report, bytes]:
        """A version's report, and its picture when asked for.

        Raises:
            NotFound: There is no such version, or it was made before there were reports.
            PreconditionFailed: DATASET_VERSION_DELETED.
            Unavailable: The report is damaged, or could not be drawn.
        """
        async with self._ports.transactions.transaction():
            artifact = (await readable(self._ports, version)).report
        if artifact is None:
            raise NotFound("DatasetReport", version)
        data = await self._ports.files.read(DatasetVersionName.parse(version).project, artifact)
        try:
            report = Report.parse(data)
        except ValueError as err:
            message = f"the report of {version} was written by another release of data-ingest; upgrade this one"
            raise Unavailable("REPORT_UNREADABLE", message) from err
        return report, await self._plotter.draw(version, report) if plot else b""
