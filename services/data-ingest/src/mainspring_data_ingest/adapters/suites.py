"""What evaluation suites ask, as the evaluator knows."""

from __future__ import annotations

from typing import Any

import grpc

from mainspring.evaluation.v1 import evaluation_service_pb2 as pb
from mainspring.evaluation.v1 import evaluation_service_pb2_grpc as pb_grpc
from mainspring.evaluation.v1 import suite_pb2
from mainspring_data_ingest.domain.splits import Split
from mainspring_svckit.errors import NotFound
from mainspring_svckit.grpc_client import Caller


class EvaluatorSuites:
    """`Suites` by way of `EvaluationService`."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub: Any = pb_grpc.EvaluationServiceStub(channel)
        self._caller = caller

    async def splits_of(self, suite_version: str) -> tuple[tuple[str, Split], ...]:
        """See `Suites`."""
        suite = await self._suite(suite_version)
        found: dict[tuple[str, Split], None] = {}
        if suite.dataset_version:
            found[suite.dataset_version, Split.TEST] = None
        for source in suite.sources:
            if source.WhichOneof("source") == "dataset":
                split = list(Split)[source.dataset.split - 1] if source.dataset.split else Split.TEST
                found[source.dataset.dataset_version, split] = None
        return tuple(found)

    async def _suite(self, suite_version: str) -> suite_pb2.EvaluationSuite:
        parent, token = suite_version.rpartition("/versions/")[0], ""
        while True:
            request = pb.ListEvaluationSuiteVersionsRequest(parent=parent, page_size=500, page_token=token)
            listed = await self._caller.unary(
                self._stub.ListEvaluationSuiteVersions, request, pb.ListEvaluationSuiteVersionsResponse
            )
            for version in listed.evaluation_suite_versions:
                if version.name == suite_version:
                    return version.evaluation_suite
            if not (token := listed.next_page_token):
                raise NotFound("EvaluationSuiteVersion", suite_version)
