"""Erasures: what is looked for, what was found and done, and the proof."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum

from mainspring_data_ingest.domain.datasets import canonical_json
from mainspring_svckit.states import StateMachine
from mainspring_svckit.values import ArtifactRef, Progress

PROOF_SCHEMA = "mainspring.erasure.v1"


class ErasureState(StrEnum):
    """Where an erasure stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


ERASURE_STATES = StateMachine(
    {
        ErasureState.PENDING: {ErasureState.RUNNING},
        ErasureState.RUNNING: {ErasureState.SUCCEEDED, ErasureState.FAILED},
        ErasureState.SUCCEEDED: set(),
        ErasureState.FAILED: set(),
    }
)


@dataclass(frozen=True)
class Selector:
    """What is erased; exactly one of the three is set."""

    text: str = ""
    row_ids: tuple[str, ...] = ()
    source_sha256: str = ""

    def digest(self, salt: str) -> str:
        """Names the selector without telling it; who knows it can compute the same."""
        value = self.text or self.source_sha256 or "\n".join(sorted(self.row_ids))
        return hashlib.sha256(f"{salt}\n{value}".encode()).hexdigest()


@dataclass(frozen=True)
class ErasedVersion:
    """What was done to one version.

    Attributes:
        version: In which something was found.
        root_sha256: Its root digest.
        rows: Rows removed.
        refused_rows: Refused rows removed.
        successor: The version that holds the other rows; empty when there are none.
        successor_root_sha256: Its root digest.
        sources: Sources that held what was looked for.
        files: Everything that the version consisted of.
    """

    version: str
    root_sha256: str
    rows: int
    refused_rows: int
    successor: str
    successor_root_sha256: str
    sources: tuple[ArtifactRef, ...]
    files: tuple[ArtifactRef, ...]


@dataclass(frozen=True)
class ErasedQueue:
    """What was done to one annotation queue: so many items removed, with what people said of them."""

    queue: str
    items: int


@dataclass(frozen=True)
class ForgottenFeedback:
    """What feedback forgot: the content of so many answers, and the words of so many judgements."""

    answers: int
    items: int


WAITING = Progress(unit="versions", phase="waiting")


@dataclass(frozen=True)
class Erasure:
    """An erasure.

    Attributes:
        name: Resource name.
        selector: What is looked for; forgotten at the end.
        salt: Goes into the digest that names the selector in the proof.
        create_time: When it was asked for.
        searched: Versions searched.
        versions: What was done.
        model_versions: Model versions that had learned from what was erased.
        lineage_known: Whether the registry was asked for them.
        queues: What was done to annotation queues.
        uploads: Files that no version was made of, and that are removed.
        unreadable_uploads: Digests of such files that stay, since nothing can be read in them and nothing shows.
        feedback: What feedback forgot; None when it was not asked.
        proof: The proof; None until the end.
        search_only: Whether it removes nothing.
        releases: Releases of `model_versions`.
        presumed: Of a search: deleted versions that held what is looked for, as far as their sources tell.
    """

    name: str
    selector: Selector
    salt: str
    create_time: datetime
    state: ErasureState = ErasureState.PENDING
    progress: Progress = WAITING
    searched: int = 0
    versions: tuple[ErasedVersion, ...] = ()
    model_versions: tuple[str, ...] = ()
    lineage_known: bool = False
    queues: tuple[ErasedQueue, ...] = ()
    uploads: tuple[ArtifactRef, ...] = ()
    unreadable_uploads: tuple[str, ...] = ()
    feedback: ForgottenFeedback | None = None
    proof: ArtifactRef | None = None
    error_reason: str = ""
    error_message: str = ""
    end_time: datetime | None = None
    search_only: bool = False
    releases: tuple[str, ...] = ()
    presumed: tuple[str, ...] = ()

    def started(self) -> Erasure:
        """The erasure with a worker; one that another worker left behind goes on where that one was."""
        if self.state is not ErasureState.RUNNING:
            ERASURE_STATES.check(self.name, self.state, ErasureState.RUNNING)
        return replace(self, state=ErasureState.RUNNING)

    def with_queues(self, removed: Mapping[str, int]) -> Erasure:
        """The erasure after it has removed so many items of queues."""
        counts = Counter({queue.queue: queue.items for queue in self.queues})
        counts.update(removed)
        return replace(self, queues=tuple(ErasedQueue(queue, items) for queue, items in sorted(counts.items())))

    def succeeded(self, proof: ArtifactRef, now: datetime) -> Erasure:
        """The erasure with its proof, which has forgotten what it looked for."""
        ERASURE_STATES.check(self.name, self.state, ErasureState.SUCCEEDED)
        done = Progress(done=self.searched, total=self.searched, unit="versions", phase="proved", remaining_s=0.0)
        return replace(
            self, state=ErasureState.SUCCEEDED, selector=Selector(), proof=proof, progress=done, end_time=now
        )

    def looked(self, now: datetime) -> Erasure:
        """The search with what it found, which has forgotten what it looked for."""
        ERASURE_STATES.check(self.name, self.state, ErasureState.SUCCEEDED)
        done = Progress(done=self.searched, total=self.searched, unit="versions", phase="searched", remaining_s=0.0)
        return replace(self, state=ErasureState.SUCCEEDED, selector=Selector(), progress=done, end_time=now)

    def failed(self, reason: str, message: str, now: datetime) -> Erasure:
        """The erasure with the reason why it cannot be done."""
        ERASURE_STATES.check(self.name, self.state, ErasureState.FAILED)
        return replace(
            self,
            state=ErasureState.FAILED,
            selector=Selector(),
            error_reason=reason,
            error_message=message,
            end_time=now,
        )


def proof_bytes(erasure: Erasure, gone: list[ArtifactRef], shared: list[ArtifactRef], now: datetime) -> bytes:
    """The proof: canonical JSON (sorted keys, no spaces, UTF-8).

    Args:
        erasure: The erasure, with everything done.
        gone: Files that the store was seen not to hold any more.
        shared: Files of erased versions without what was looked for, which other versions have too.
        now: When that was seen.
    """
    body = {
        "schema": PROOF_SCHEMA,
        "name": erasure.name,
        "selector_kind": _kind(erasure.selector),
        "selector_salt": erasure.salt,
        "selector_sha256": erasure.selector.digest(erasure.salt),
        "searched_versions": erasure.searched,
        "versions": [
            {
                **{key: value for key, value in asdict(version).items() if key not in {"sources", "files"}},
                "sources_sha256": [source.sha256 for source in version.sources],
            }
            for version in erasure.versions
        ],
        "model_versions": list(erasure.model_versions),
        "lineage_known": erasure.lineage_known,
        "annotation_queues": [asdict(queue) for queue in erasure.queues],
        "uploads_sha256": sorted(upload.sha256 for upload in erasure.uploads),
        "unreadable_uploads_sha256": sorted(erasure.unreadable_uploads),
        "feedback": asdict(erasure.feedback) if erasure.feedback is not None else None,
        "gone_sha256": sorted({file.sha256 for file in gone}),
        "kept_for_other_versions_sha256": sorted({file.sha256 for file in shared}),
        "verified_time": now.isoformat(),
    }
    return canonical_json(body)


def _kind(selector: Selector) -> str:
    if selector.text:
        return "text"
    return "rows" if selector.row_ids else "source"
