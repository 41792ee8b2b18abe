"""Between the embedder's domain and `mainspring.embedding.v1`; pure functions."""

from __future__ import annotations

from mainspring.embedding.v1 import collection_pb2
from mainspring_embedder.application.ports import Found
from mainspring_embedder.domain.collections import Collection, IndexBuild
from mainspring_svckit.mapping import failure_to_proto, progress_to_proto, time_to_proto


def collection_to_proto(collection: Collection) -> collection_pb2.Collection:
    """Prints a collection."""
    active = collection.active
    return collection_pb2.Collection(
        name=collection.name,
        embedding_model_version=collection.embedding_model_version,
        active_index=active.number if active is not None else 0,
        document_count=active.documents if active is not None else 0,
        chunk_count=active.chunks if active is not None else 0,
        create_time=time_to_proto(collection.create_time),
        refresh_time=time_to_proto(collection.refresh_time),
    )


def build_to_proto(build: IndexBuild) -> collection_pb2.IndexBuild:
    """Prints a build."""
    return collection_pb2.IndexBuild(
        name=build.name,
        state=collection_pb2.IndexBuild.State.Value(f"STATE_{build.state.value}"),
        progress=progress_to_proto(build.progress),
        error=failure_to_proto(build.error_reason, build.error_message),
        index=build.index,
        create_time=time_to_proto(build.create_time),
        end_time=time_to_proto(build.end_time),
    )


def passage_to_proto(found: Found) -> collection_pb2.Passage:
    """Prints a passage."""
    return collection_pb2.Passage(
        document_id=found.document_id, title=found.title, uri=found.uri, text=found.text, score=found.score
    )
