"""The fake of the services behind the door; it passes the contract suites of both ports."""

from collections.abc import Sequence

from mainspring_gateway.application.ports import Embedded, Judgement
from mainspring_svckit.errors import NotFound


class FakeServices:
    """`Embeddings` and `Feedback`; models and answers that are `missing` are not found."""

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.judgements: list[tuple[str, Judgement, str]] = []

    async def embed(self, project: str, model: str, texts: Sequence[str]) -> Embedded:
        if model in self.missing:
            raise NotFound("Model", model)
        return Embedded([[0.6, 0.8] for _ in texts], f"{model}/versions/1", 5)

    async def send(self, project: str, judgement: Judgement, *, request_id: str, authorization: str) -> str:
        if judgement.answer in self.missing:
            raise NotFound("Answer", judgement.answer)
        self.judgements.append((project, judgement, request_id))
        return f"projects/{project}/feedbackItems/f1"
