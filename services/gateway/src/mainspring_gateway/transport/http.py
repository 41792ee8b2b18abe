"""The routes: OpenAI's API and feedback.

Annotations are evaluated here (no `from __future__ import annotations`), since FastAPI reads dependencies from them.
"""

import base64
import time
from array import array
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request
from starlette.responses import JSONResponse, Response

from mainspring_answers.domain import (
    Answer,
    ContextWish,
    Delta,
    FinishReason,
    Question,
    RoutingTable,
    SamplingWish,
)
from mainspring_answers.path import AnswerPath
from mainspring_answers.routing import RoutingFollower
from mainspring_gateway.application.ports import Embeddings, Feedback, Judgement
from mainspring_gateway.domain.names import answer_name, completion_id, model_id, model_name
from mainspring_gateway.transport.callers import Caller, admit
from mainspring_gateway.transport.schemas import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    FeedbackRequest,
)
from mainspring_gateway.transport.streaming import EventStream, unless_left
from mainspring_svckit.auth import TokenVerifier
from mainspring_svckit.errors import FieldViolation, InvalidInput, NotFound
from mainspring_svckit.ids import new_id
from mainspring_svckit.names import CollectionName
from mainspring_svckit.values import Message

_FINISH = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.CONTENT_FILTER: "content_filter"}


class Door:
    """Everything that the routes need; made once, in `main.py`."""

    def __init__(
        self,
        *,
        verifier: TokenVerifier,
        path: AnswerPath,
        routes: RoutingFollower,
        embeddings: Embeddings,
        feedback: Feedback,
    ) -> None:
        self._verifier, self._path, self._routes = verifier, path, routes
        self._embeddings, self._feedback = embeddings, feedback

    def router(self) -> APIRouter:
        """The routes; each lets only callers in who hold the role that it names."""
        router = APIRouter(prefix="/v1")
        viewer, contributor, annotator = (
            Depends(admit(self._verifier, role)) for role in ("viewer", "contributor", "annotator")
        )

        @router.get("/models")
        async def list_models(caller: Annotated[Caller, viewer]) -> Response:
            models = [_model(table) for table in self._routes.tables(caller.project)]
            return JSONResponse({"object": "list", "data": models})

        @router.get("/models/{model:path}")
        async def get_model(model: str, caller: Annotated[Caller, viewer]) -> Response:
            name = model_name(caller.project, model)
            for table in self._routes.tables(caller.project):
                if table.model == name:
                    return JSONResponse(_model(table))
            raise NotFound("ServedModel", name)

        @router.post("/chat/completions")
        async def chat(body: ChatRequest, request: Request, caller: Annotated[Caller, contributor]) -> Response:
            question = _chat_question(body, caller)
            if body.stream:
                usage = body.stream_options is not None and body.stream_options.include_usage
                return EventStream(self._chat_events(question, body.model, with_usage=usage), {})
            answer = await unless_left(request, self._path.generate(question))
            return JSONResponse(_chat_body(answer, body.model), headers=_answer_headers(answer))

        @router.post("/completions")
        async def complete(
            body: CompletionRequest, request: Request, caller: Annotated[Caller, contributor]
        ) -> Response:
            question = _completion_question(body, caller)
            if body.stream:
                return EventStream(self._completion_events(question, body.model), {})
            answer = await unless_left(request, self._path.generate(question))
            return JSONResponse(_completion_body(answer, body.model), headers=_answer_headers(answer))

        @router.post("/embeddings")
        async def embed(body: EmbeddingRequest, caller: Annotated[Caller, contributor]) -> Response:
            name = model_name(caller.project, body.model)
            made = await self._embeddings.embed(caller.project, name, body.texts)
            data = [
                {"object": "embedding", "index": index, "embedding": _vector(vector, body.encoding_format)}
                for index, vector in enumerate(made.vectors)
            ]
            usage = {"prompt_tokens": made.tokens, "total_tokens": made.tokens}
            return JSONResponse({"object": "list", "data": data, "model": body.model, "usage": usage})

        @router.post("/feedback")
        async def feedback(
            body: FeedbackRequest,
            caller: Annotated[Caller, annotator],
            idempotency_key: Annotated[str | None, Header(max_length=64)] = None,
        ) -> Response:
            item = await self._feedback.send(
                caller.project,
                _judgement(body, caller.project),
                request_id=idempotency_key or new_id(),
                authorization=caller.authorization,
            )
            return JSONResponse({"object": "feedback", "id": item.rsplit("/", 1)[-1], "name": item}, 201)

        return router

    async def _chat_events(
        self, question: Question, model: str, *, with_usage: bool
    ) -> AsyncGenerator[Mapping[str, Any]]:
        # The answer's id is known only at its end; until then the stream goes by an id of its own.
        delta: dict[str, str] = {"role": "assistant"}
        async with aclosing(self._path.stream(question)) as events:
            async for event in events:
                # Nothing is sent before the engine's first word, so that an error till then has a status of its own.
                match event:
                    case Delta(text, name):
                        delta = {**delta, "content": text}
                        choice = {"index": 0, "delta": delta, "finish_reason": None}
                        yield _chunk(name, model, [choice], chat=True)
                        delta = {}
                    case Answer():
                        last = {"index": 0, "delta": delta, "finish_reason": _FINISH[event.finish_reason]}
                        yield _chunk(event.name, model, [last], chat=True, mainspring=_ours(event))
                        if with_usage:
                            yield _chunk(event.name, model, [], chat=True, usage=_usage(event))

    async def _completion_events(self, question: Question, model: str) -> AsyncGenerator[Mapping[str, Any]]:
        async with aclosing(self._path.stream(question)) as events:
            async for event in events:
                match event:
                    case Delta(text, name):
                        choice = {"index": 0, "text": text, "finish_reason": None}
                        yield _chunk(name, model, [choice], chat=False)
                    case Answer():
                        last = {"index": 0, "text": "", "finish_reason": _FINISH[event.finish_reason]}
                        yield _chunk(event.name, model, [last], chat=False, mainspring=_ours(event))


def _chunk(answer: str, model: str, choices: list[dict[str, Any]], *, chat: bool, **more: Any) -> Mapping[str, Any]:
    head = {
        "id": completion_id(answer, chat=chat),
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": int(time.time()),
        "model": model,
    }
    return {**head, "choices": choices, **more}


def _chat_question(body: ChatRequest, caller: Caller) -> Question:
    if body.response_format is not None and body.response_format.get("type") != "text":
        description = "only {'type': 'text'} is served"
        violation = FieldViolation("response_format", description)
        raise InvalidInput(f"response_format: {description}", reason="NOT_SERVED", violations=[violation])
    context = None
    if body.context is not None:
        collection = body.context.collection
        full = collection if "/" in collection else str(CollectionName(caller.project, collection))
        if CollectionName.parse(full, "context.collection").project != caller.project:
            raise NotFound("Collection", full)
        context = ContextWish(full, body.context.top_k)
    roles = {"developer": "system"}
    return Question(
        project=caller.project,
        model=_own_model(caller.project, body.model),
        caller=caller.subject,
        messages=tuple(Message(roles.get(message.role, message.role), message.text) for message in body.messages),
        sampling=_sampling(body, body.max_completion_tokens or body.max_tokens),
        context=context,
        session=body.user or "",
    )


def _completion_question(body: CompletionRequest, caller: Caller) -> Question:
    return Question(
        project=caller.project,
        model=_own_model(caller.project, body.model),
        caller=caller.subject,
        raw_prompt=body.prompt,
        sampling=_sampling(body, body.max_tokens),
        session=body.user or "",
    )


def _own_model(project: str, model: str) -> str:
    name = model_name(project, model)
    if not name.startswith(f"projects/{project}/"):
        raise NotFound("ServedModel", name)
    return name


def _sampling(body: ChatRequest | CompletionRequest, max_tokens: int | None) -> SamplingWish:
    if len(body.stops) > 8 or any(not stop or len(stop) > 200 for stop in body.stops):
        description = "at most 8 texts of 1 to 200 characters"
        raise InvalidInput(f"stop: {description}", violations=[FieldViolation("stop", description)])
    return SamplingWish(
        max_output_tokens=max_tokens,
        temperature=body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=body.stops,
    )


def _chat_body(answer: Answer, model: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    return {
        "id": completion_id(answer.name, chat=True),
        "object": "chat.completion",
        "created": int(answer.create_time.timestamp()),
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": _FINISH[answer.finish_reason]}],
        "usage": _usage(answer),
        "mainspring": _ours(answer),
    }


def _completion_body(answer: Answer, model: str) -> dict[str, Any]:
    choice = {"index": 0, "text": answer.text, "logprobs": None, "finish_reason": _FINISH[answer.finish_reason]}
    return {
        "id": completion_id(answer.name, chat=False),
        "object": "text_completion",
        "created": int(answer.create_time.timestamp()),
        "model": model,
        "choices": [choice],
        "usage": _usage(answer),
        "mainspring": _ours(answer),
    }


def _usage(answer: Answer) -> dict[str, int]:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }


def _ours(answer: Answer) -> dict[str, Any]:
    """What we say beyond OpenAI's fields: who answered, for feedback, and what was cited."""
    citations = [
        {
            "number": citation.number,
            "document_id": citation.passage.document_id,
            "title": citation.passage.title,
            "uri": citation.passage.uri,
            "text": citation.passage.text,
            "score": citation.passage.score,
        }
        for citation in answer.citations
    ]
    return {
        "answer": answer.name,
        "model_version": answer.model_version,
        "release": answer.release,
        "prompt_version": answer.prompt_version,
        "guard_policy_version": answer.guard_policy_version,
        "guard_rules": list(answer.guard_rules),
        "citations": citations,
    }


def _answer_headers(answer: Answer) -> dict[str, str]:
    return {"x-mainspring-answer": answer.name, "x-mainspring-model-version": answer.model_version}


def _model(table: RoutingTable) -> dict[str, Any]:
    route = table.main_route
    assert route is not None, "a model without routes is not listed"
    return {
        "id": model_id(table.model),
        "object": "model",
        "created": 0,
        "owned_by": "mainspring",
        "mainspring": {"model": table.model, "model_version": route.model_version, "release": route.release},
    }


def _vector(vector: Any, encoding: str) -> Any:
    if encoding == "float":
        return list(vector)
    return base64.b64encode(array("f", vector).tobytes()).decode()


def _judgement(body: FeedbackRequest, project: str) -> Judgement:
    answer, value = answer_name(project, body.target_id), body.value
    match body.name, value:
        case "thumb", bool():
            return Judgement(answer, thumb=value, comment=body.comment)
        case "score", float() | int() if not isinstance(value, bool) and 0 <= value <= 1:
            return Judgement(answer, score=float(value), comment=body.comment)
        case "correction", str() if value.strip():
            return Judgement(answer, correction=value, comment=body.comment)
        case "preference", str():
            return Judgement(answer, rejected_answer=answer_name(project, value), comment=body.comment)
        case _:
            wanted = {"thumb": "true or false", "score": "a number from 0 to 1", "correction": "a text"}
            description = f"{body.name} takes {wanted.get(body.name, 'the id of the completion that is worse')}"
            violation = FieldViolation("value", description)
            raise InvalidInput(f"value: {description}", reason="VALUE_INVALID", violations=[violation])
