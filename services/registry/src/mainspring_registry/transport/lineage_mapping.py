"""Lineage between the contracts and the use cases."""

from __future__ import annotations

from collections.abc import Sequence

from mainspring.data.v1 import dataset_pb2, erasure_pb2
from mainspring.registry.v1 import lineage_pb2
from mainspring.registry.v1 import registry_service_pb2 as pb
from mainspring_registry.application.lineage import Trace
from mainspring_registry.domain.data import RowsWish, Search, ShownData, Sought
from mainspring_registry.domain.lineage import Direction, Edge, Node, Walk
from mainspring_svckit.mapping import failure_to_proto, messages_to_proto, progress_to_proto

_DEFAULT_ROWS = 10


def direction_from_proto(direction: pb.GetLineageRequest.Direction.ValueType) -> Direction:
    """Reads where a walk goes."""
    down = direction == pb.GetLineageRequest.DIRECTION_DOWNSTREAM
    return Direction.DOWNSTREAM if down else Direction.UPSTREAM


def rows_from_proto(wish: lineage_pb2.LineageRows) -> RowsWish:
    """Reads which rows are wanted."""
    return RowsWish(wish.dataset_version, wish.page_size or _DEFAULT_ROWS, wish.page_token)


def sought_from_proto(selector: erasure_pb2.ErasureSelector) -> Sought:
    """Reads what is looked for."""
    return Sought(selector.text, tuple(selector.rows.row_ids), selector.source_sha256)


def walk_to_proto(walk: Walk, data: Sequence[ShownData]) -> pb.GetLineageResponse:
    """Prints what a walk found."""
    return pb.GetLineageResponse(
        nodes=_nodes(walk.nodes),
        edges=_edges(walk.edges),
        truncated=walk.truncated,
        data=[_data_to_proto(one) for one in data],
    )


def trace_to_proto(state: Search | Trace) -> pb.TraceDataResponse:
    """Prints how far a search is, or what was found."""
    if isinstance(state, Search):
        return pb.TraceDataResponse(progress=progress_to_proto(state.progress))
    search, walk = state.search, state.walk
    trace = lineage_pb2.DataTrace(
        search=search.name,
        searched_versions=search.searched,
        versions=[
            lineage_pb2.TracedVersion(
                dataset_version=version.version,
                rows=version.rows,
                refused_rows=version.refused_rows,
                sources=version.sources,
                presumed=version.presumed,
            )
            for version in search.versions
        ],
        nodes=_nodes(walk.nodes),
        edges=_edges(walk.edges),
        truncated=walk.truncated,
    )
    return pb.TraceDataResponse(progress=progress_to_proto(search.progress), trace=trace)


def _nodes(nodes: Sequence[Node]) -> list[lineage_pb2.LineageNode]:
    return [lineage_pb2.LineageNode(name=node.name, hops=node.hops) for node in nodes]


def _edges(edges: Sequence[Edge]) -> list[lineage_pb2.LineageEdge]:
    relation = lineage_pb2.LineageEdge.Relation
    return [
        lineage_pb2.LineageEdge(
            source=edge.source, target=edge.target, relation=relation.Value(f"RELATION_{edge.relation.value}")
        )
        for edge in edges
    ]


def _data_to_proto(data: ShownData) -> lineage_pb2.LineageData:
    return lineage_pb2.LineageData(
        dataset_version=data.version,
        sources=[
            lineage_pb2.LineageSource(
                name=source.name,
                filename=source.filename,
                media_type=source.media_type,
                size_bytes=source.size_bytes,
            )
            for source in data.sources
        ],
        rows=[
            lineage_pb2.LineageRow(
                row_id=row.row_id,
                split=dataset_pb2.Split.Value(row.split),
                messages=messages_to_proto(row.messages),
                source=data.sources[row.source_index].name if row.source_index < len(data.sources) else "",
                line=row.line,
            )
            for row in data.rows
        ],
        next_page_token=data.next_page_token,
        error=failure_to_proto(data.error_reason, data.error_message),
    )
