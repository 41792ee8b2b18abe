"""Studies: searches for better settings of a tuning recipe."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

from mainspring.training.v1 import study_pb2, study_service_pb2_grpc
from mainspring.training.v1 import study_service_pb2 as pb
from mainspring_client.connection import Area, Connection
from mainspring_svckit.errors import FieldViolation, InvalidInput
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import ProjectName

_RANGE = re.compile(r"(?P<low>[^.,:]*(?:\.\d[^.,:]*)?)\.\.(?P<high>[^,:]+?)(?P<log>:log)?")
_WHOLE = re.compile(r"[+-]?\d+")


class Studies(Area):
    """Client of the trainer's studies; `stub` is the generated one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.stub = study_service_pb2_grpc.StudyServiceStub(connection.channel("trainer"))

    async def create(self, project: str, study: study_pb2.Study) -> study_pb2.Study:
        """Begins a study; watch it."""
        request = pb.CreateStudyRequest(parent=str(ProjectName(project)), study=study, request_id=new_id())
        return (await self._unary(self.stub.CreateStudy, request, pb.CreateStudyResponse)).study

    def list(self, project: str) -> AsyncIterator[study_pb2.Study]:
        """A project's studies, newest first."""
        request = pb.ListStudiesRequest(parent=str(ProjectName(project)))
        return self._pages(self.stub.ListStudies, request, pb.ListStudiesResponse, lambda r: r.studies)

    async def get(self, name: str) -> study_pb2.Study:
        """A study."""
        return (await self._unary(self.stub.GetStudy, pb.GetStudyRequest(name=name), pb.GetStudyResponse)).study

    def trials(self, study: str) -> AsyncIterator[study_pb2.StudyTrial]:
        """A study's trials by number."""
        request = pb.ListStudyTrialsRequest(parent=study, page_size=500)
        return self._pages(self.stub.ListStudyTrials, request, pb.ListStudyTrialsResponse, lambda r: r.study_trials)

    async def cancel(self, name: str) -> study_pb2.Study:
        """Cancels a study that has not ended, and its open trials."""
        request = pb.CancelStudyRequest(name=name, request_id=new_id())
        return (await self._unary(self.stub.CancelStudy, request, pb.CancelStudyResponse)).study

    async def watch(self, name: str) -> AsyncIterator[study_pb2.Study]:
        """The study now and after each change, until it has ended."""
        async for response in self._watch(self.stub.WatchStudy, pb.WatchStudyRequest(name=name), pb.WatchStudyResponse):
            yield response.study


def parameter(text: str) -> study_pb2.SearchParameter:
    """Reads what is varied: `optimization.learning_rate=1e-4..1e-2:log`, `lora.rank=4..32` or `lora.rank=4,8,16`.

    Raises:
        InvalidInput: It is none of these.
    """
    path, equals, domain = text.partition("=")
    made = study_pb2.SearchParameter(path=path)
    found = _RANGE.fullmatch(domain)
    try:
        if found and _WHOLE.fullmatch(found["low"]) and _WHOLE.fullmatch(found["high"]):
            low, high = int(found["low"]), int(found["high"])
            made.int_range.CopyFrom(study_pb2.IntRange(low=low, high=high, log=bool(found["log"])))
        elif found:
            low, high = float(found["low"]), float(found["high"])
            made.double_range.CopyFrom(study_pb2.DoubleRange(low=low, high=high, log=bool(found["log"])))
        elif equals and "," in domain:
            made.choices.CopyFrom(study_pb2.Choices(values=[_json(value) for value in domain.split(",")]))
        else:
            raise ValueError(domain)
    except ValueError as err:
        description = f"{text!r} is not like PATH=LOW..HIGH, PATH=LOW..HIGH:log or PATH=A,B,C"
        raise InvalidInput(f"vary: {description}", violations=[FieldViolation("vary", description)]) from err
    return made


def _json(text: str) -> str:
    """A choice as JSON; what is none is taken as text."""
    try:
        json.loads(text)
    except ValueError:
        return json.dumps(text)
    return text
