"""What feedback knows: what earlier answers teach, and what it is asked to forget."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from typing import Any, BinaryIO

import grpc
import orjson

from mainspring.feedback.v1 import feedback_pb2
from mainspring.feedback.v1 import feedback_service_pb2 as pb
from mainspring.feedback.v1 import feedback_service_pb2_grpc as pb_grpc
from mainspring_data_ingest.domain.places import Judged
from mainspring_svckit.errors import PreconditionFailed
from mainspring_svckit.grpc_client import Caller
from mainspring_svckit.mapping import messages_from_proto
from mainspring_svckit.names import ProjectName

_PAGE = 200
_LINES = 500
_TIMEOUT_S, _ERASE_TIMEOUT_S = 60.0, 600.0


class FeedbackAnswers:
    """Judged answers by way of `FeedbackService`."""

    def __init__(self, channel: grpc.aio.Channel, caller: Caller) -> None:
        self._stub: Any = pb_grpc.FeedbackServiceStub(channel)
        self._caller = caller

    async def lines(self, project: str, wanted: Judged) -> AsyncIterator[bytes]:
        """Rows as JSON Lines, what was judged first first, so that what is judged later comes behind it.

        Raises:
            PreconditionFailed: NO_JUDGED_ANSWERS.
            MainspringError: As feedback says.
        """
        # Feedback lists the newest first: lines go to the disk, and are read from the end.
        with tempfile.TemporaryFile() as file:
            ends = array("q", [0])
            async for judged in self._listed(project, wanted):
                file.write(line_of(judged))
                ends.append(file.tell())
            if len(ends) == 1:
                message = "nobody has judged an answer that fits and whose content is kept; widen what is asked for"
                raise PreconditionFailed("NO_JUDGED_ANSWERS", message)
            for chunk in _from_the_end(file, ends):
                yield chunk

    async def erase(self, project: str, text: str) -> tuple[int, int]:
        """Has feedback forget what was said where a text is found; the numbers of answers and of judgements."""
        request = pb.EraseFeedbackContentRequest(parent=str(ProjectName(project)), text=text)
        done = await self._caller.unary(
            self._stub.EraseFeedbackContent, request, pb.EraseFeedbackContentResponse, timeout_s=_ERASE_TIMEOUT_S
        )
        return done.erased_answers, done.erased_feedback_items

    async def _listed(self, project: str, wanted: Judged) -> AsyncIterator[feedback_pb2.JudgedAnswer]:
        request = pb.ListJudgedAnswersRequest(
            parent=str(ProjectName(project)),
            page_size=_PAGE,
            model=wanted.model,
            model_version=wanted.model_version,
            release=wanted.release,
        )
        for field, time in (("start_time", wanted.start), ("end_time", wanted.end)):
            if time is not None:
                getattr(request, field).FromDatetime(time)
        while True:
            listed = await self._caller.unary(
                self._stub.ListJudgedAnswers, request, pb.ListJudgedAnswersResponse, timeout_s=_TIMEOUT_S
            )
            for judged in listed.judged_answers:
                yield judged
            if not listed.next_page_token:
                return
            request.page_token = listed.next_page_token


def line_of(judged: feedback_pb2.JudgedAnswer) -> bytes:
    """A judged answer as a row of ours; all have the same columns."""
    row = {
        "messages": [asdict(turn) for turn in messages_from_proto(judged.messages)],
        "rejected": judged.rejected if judged.HasField("rejected") else None,
        "desirable": judged.desirable if judged.HasField("desirable") else None,
        "answer": judged.answer,
        "model_version": judged.model_version,
        "feedback_item": judged.feedback_item,
    }
    return orjson.dumps(row) + b"\n"


def _from_the_end(file: BinaryIO, ends: array[int]) -> Iterator[bytes]:
    for last in range(len(ends) - 1, 0, -_LINES):
        lines: list[bytes] = []
        for number in range(last, max(0, last - _LINES), -1):
            file.seek(ends[number - 1])
            lines.append(file.read(ends[number] - ends[number - 1]))
        yield b"".join(lines)
