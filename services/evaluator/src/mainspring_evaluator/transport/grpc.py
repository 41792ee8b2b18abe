"""`mainspring.evaluation.v1.EvaluationService`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from mainspring.evaluation.v1 import evaluation_service_pb2 as pb
from mainspring.evaluation.v1 import evaluation_service_pb2_grpc as pb_grpc
from mainspring_evaluator.application.drift import Monitors
from mainspring_evaluator.application.planning import Planning
from mainspring_evaluator.application.ports import EVERYTHING, Ports
from mainspring_evaluator.application.runs import Runs, Suites
from mainspring_evaluator.domain.runs import RUN_STATES, EvaluationRun
from mainspring_evaluator.transport import drift, mapping, suites
from mainspring_svckit.database import Listener
from mainspring_svckit.pagination import Page, next_page_token
from mainspring_svckit.reading import Reader
from mainspring_svckit.repository import require
from mainspring_svckit.watching import follow

NAME = "mainspring.evaluation.v1.EvaluationService"


class EvaluationServicer(pb_grpc.EvaluationServiceServicer):
    """Translates; every decision is made in the use cases."""

    def __init__(self, ports: Ports, suites: Suites, runs: Runs, listener: Listener) -> None:
        self._ports, self._suites, self._runs, self._listener = ports, suites, runs, listener
        self._reader, self._planning, self._monitors = Reader(ports.transactions), Planning(ports), Monitors(ports)

    async def UpdateEvaluationSuite(
        self, request: pb.UpdateEvaluationSuiteRequest, context: Any
    ) -> pb.UpdateEvaluationSuiteResponse:
        stored = await self._suites.put(
            suites.suite_from_proto(request.evaluation_suite),
            etag=request.evaluation_suite.etag,
            allow_missing=request.allow_missing,
        )
        return pb.UpdateEvaluationSuiteResponse(evaluation_suite=suites.suite_to_proto(stored))

    async def GetEvaluationSuite(
        self, request: pb.GetEvaluationSuiteRequest, context: Any
    ) -> pb.GetEvaluationSuiteResponse:
        found = await self._reader.get(self._ports.suites, "EvaluationSuite", request.name)
        return pb.GetEvaluationSuiteResponse(evaluation_suite=suites.suite_to_proto(found))

    async def ListEvaluationSuites(
        self, request: pb.ListEvaluationSuitesRequest, context: Any
    ) -> pb.ListEvaluationSuitesResponse:
        listed, token = await self._reader.list(self._ports.suites, request)
        return pb.ListEvaluationSuitesResponse(
            evaluation_suites=[suites.suite_to_proto(item) for item in listed.items], next_page_token=token
        )

    async def ListEvaluationSuiteVersions(
        self, request: pb.ListEvaluationSuiteVersionsRequest, context: Any
    ) -> pb.ListEvaluationSuiteVersionsResponse:
        listed, token = await self._reader.list(self._ports.suite_versions, request)
        return pb.ListEvaluationSuiteVersionsResponse(
            evaluation_suite_versions=[suites.suite_version_to_proto(item.value) for item in listed.items],
            next_page_token=token,
        )

    async def EstimateSampleSize(
        self, request: pb.EstimateSampleSizeRequest, context: Any
    ) -> pb.EstimateSampleSizeResponse:
        sizes = await self._planning.sample_sizes(
            request.parent,
            evaluation_run=request.evaluation_run,
            standard_deviation=request.standard_deviation,
            scorer=request.scorer,
            effect=request.effect,
            items=request.items,
            power=request.power,
            confidence_level=request.confidence_level,
        )
        return pb.EstimateSampleSizeResponse(sample_sizes=[pb.SampleSize(**asdict(size)) for size in sizes])

    async def CreateEvaluationRun(
        self, request: pb.CreateEvaluationRunRequest, context: Any
    ) -> pb.CreateEvaluationRunResponse:
        run = await self._runs.create(request.evaluation_suite, request.candidate, request.baseline)
        return pb.CreateEvaluationRunResponse(evaluation_run=mapping.run_to_proto(run))

    async def GetEvaluationRun(self, request: pb.GetEvaluationRunRequest, context: Any) -> pb.GetEvaluationRunResponse:
        found = await self._reader.get(self._ports.runs, "EvaluationRun", request.name)
        return pb.GetEvaluationRunResponse(evaluation_run=mapping.run_to_proto(found.value))

    async def ListEvaluationRuns(
        self, request: pb.ListEvaluationRunsRequest, context: Any
    ) -> pb.ListEvaluationRunsResponse:
        listed, token = await self._reader.list(self._ports.runs, request)
        return pb.ListEvaluationRunsResponse(
            evaluation_runs=[mapping.run_to_proto(item.value) for item in listed.items], next_page_token=token
        )

    async def CancelEvaluationRun(
        self, request: pb.CancelEvaluationRunRequest, context: Any
    ) -> pb.CancelEvaluationRunResponse:
        run = await self._runs.cancel(request.name)
        return pb.CancelEvaluationRunResponse(evaluation_run=mapping.run_to_proto(run))

    async def WatchEvaluationRun(
        self, request: pb.WatchEvaluationRunRequest, context: Any
    ) -> AsyncIterator[pb.WatchEvaluationRunResponse]:
        async def read() -> EvaluationRun:
            return (await self._reader.get(self._ports.runs, "EvaluationRun", request.name)).value

        async for run in follow(self._listener, request.name, read, lambda run: RUN_STATES.ended(run.state)):
            yield pb.WatchEvaluationRunResponse(evaluation_run=mapping.run_to_proto(run))

    async def ListEvaluationItems(
        self, request: pb.ListEvaluationItemsRequest, context: Any
    ) -> pb.ListEvaluationItemsResponse:
        # A token is one of the list as it was filtered.
        wanted = mapping.filter_from_proto(request)
        scope = f"{request.parent}|{wanted}" if wanted != EVERYTHING else request.parent
        page = Page.of(request.page_size, request.page_token, scope)
        async with self._ports.transactions.transaction():
            await require(self._ports.runs, "EvaluationRun", request.parent)
            listed = await self._ports.items.list(request.parent, page, wanted)
        return pb.ListEvaluationItemsResponse(
            evaluation_items=[mapping.item_to_proto(item.value) for item in listed.items],
            next_page_token=next_page_token(listed.next_key, scope),
        )

    async def CompareEvaluationRuns(
        self, request: pb.CompareEvaluationRunsRequest, context: Any
    ) -> pb.CompareEvaluationRunsResponse:
        scope = f"{request.first}|{request.second}"
        page = Page.of(request.page_size, request.page_token, scope)
        found = await self._planning.side_by_side(request.first, request.second, page)
        return pb.CompareEvaluationRunsResponse(
            scorers=map(mapping.comparison_to_proto, found.scorers),
            common_items=found.common_items,
            pairs=[mapping.pair_to_proto(*pair) for pair in found.pairs.pairs],
            next_page_token=next_page_token(found.pairs.next_key, scope),
        )

    async def UpdateDriftMonitor(
        self, request: pb.UpdateDriftMonitorRequest, context: Any
    ) -> pb.UpdateDriftMonitorResponse:
        stored = await self._monitors.put(
            drift.monitor_from_proto(request.drift_monitor),
            etag=request.drift_monitor.etag,
            allow_missing=request.allow_missing,
        )
        return pb.UpdateDriftMonitorResponse(drift_monitor=drift.monitor_to_proto(stored))

    async def GetDriftMonitor(self, request: pb.GetDriftMonitorRequest, context: Any) -> pb.GetDriftMonitorResponse:
        found = await self._reader.get(self._ports.monitors, "DriftMonitor", request.name)
        return pb.GetDriftMonitorResponse(drift_monitor=drift.monitor_to_proto(found))

    async def ListDriftMonitors(
        self, request: pb.ListDriftMonitorsRequest, context: Any
    ) -> pb.ListDriftMonitorsResponse:
        listed, token = await self._reader.list(self._ports.monitors, request)
        return pb.ListDriftMonitorsResponse(
            drift_monitors=map(drift.monitor_to_proto, listed.items), next_page_token=token
        )

    async def CheckDriftMonitor(
        self, request: pb.CheckDriftMonitorRequest, context: Any
    ) -> pb.CheckDriftMonitorResponse:
        found = await self._monitors.check_now(request.name)
        return pb.CheckDriftMonitorResponse(drift_monitor=drift.monitor_to_proto(found))

    async def ListDriftReports(self, request: pb.ListDriftReportsRequest, context: Any) -> pb.ListDriftReportsResponse:
        page = Page.of(request.page_size, request.page_token, request.parent)
        async with self._ports.transactions.transaction():
            await require(self._ports.monitors, "DriftMonitor", request.parent)
            listed = await self._ports.reports.list(request.parent, page)
        return pb.ListDriftReportsResponse(
            drift_reports=[drift.report_to_proto(item.value) for item in listed.items],
            next_page_token=next_page_token(listed.next_key, request.parent),
        )
