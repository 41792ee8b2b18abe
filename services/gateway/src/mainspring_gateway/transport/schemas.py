"""Bodies of OpenAI's API, as far as they are served here; fields that are not listed are passed over."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_TEXT = 1_000_000


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=False)


class TextPart(_Body):
    """A part of a message; only text is served."""

    type: Literal["text"]
    text: str = Field(max_length=MAX_TEXT)


class ChatMessage(_Body):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, Field(max_length=MAX_TEXT)] | list[TextPart]

    @property
    def text(self) -> str:
        """All its text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(_Body):
    """What a stream should hold beside text."""

    include_usage: bool = False


class ContextBody(_Body):
    """Ours: passages of a collection to put before the question."""

    collection: str = Field(min_length=1, max_length=300)
    top_k: int = Field(3, ge=1, le=20)


class _Sampled(_Body):
    model: str = Field(min_length=1, max_length=300)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=0, le=2**32 - 1)
    stop: Annotated[str, Field(min_length=1, max_length=200)] | list[str] | None = None
    n: int | None = Field(None, ge=1, le=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, max_length=200)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts, however many were given."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatRequest(_Sampled):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_tokens: int | None = Field(None, ge=1, le=32_768)
    max_completion_tokens: int | None = Field(None, ge=1, le=32_768)
    context: ContextBody | None = None
    tools: list[Any] | None = Field(None, max_length=0)
    response_format: dict[str, Any] | None = None
    logprobs: Literal[False] | None = None


class CompletionRequest(_Sampled):
    """`POST /v1/completions`."""

    prompt: str = Field(min_length=1, max_length=MAX_TEXT)
    max_tokens: int | None = Field(None, ge=1, le=32_768)


class EmbeddingRequest(_Body):
    """`POST /v1/embeddings`."""

    model: str = Field(min_length=1, max_length=300)
    input: Annotated[str, Field(min_length=1, max_length=100_000)] | list[str]
    encoding_format: Literal["float", "base64"] = "float"

    @property
    def texts(self) -> list[str]:
        """The texts, however many were given."""
        return [self.input] if isinstance(self.input, str) else self.input


class FeedbackRequest(_Body):
    """`POST /v1/feedback`: what somebody says of an answer."""

    target_id: str = Field(min_length=1, max_length=300, description="The `id` of a completion.")
    name: Literal["thumb", "score", "correction", "preference"]
    value: bool | float | str = Field(
        description="true or false; 0 to 1; the corrected text; or the `id` of the completion that is worse."
    )
    comment: str = Field("", max_length=10_000)


class _Webhook(_Body):
    url: str = Field(min_length=1, max_length=2000)
    event_types: list[str] = Field(default_factory=list[str], max_length=20)


class WebhookRequest(_Webhook):
    """`POST /v1/webhooks`."""

    id: str = Field(min_length=1, max_length=63)


class WebhookUpdate(_Webhook):
    """`PUT /v1/webhooks/{id}`: the endpoint as it should be."""

    disabled: bool = False
