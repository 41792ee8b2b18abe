"""The lineage graph, filled from what the catalogue knows already."""

from alembic import op

revision = "0002"
down_revision = "0001"

_TABLE = (
    """
    CREATE TABLE lineage_edge (
        project text NOT NULL,
        source text NOT NULL COLLATE "C",
        target text NOT NULL COLLATE "C",
        relation text NOT NULL,
        create_time timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project, source, target, relation)
    )
    """,
    "CREATE INDEX lineage_edge_target ON lineage_edge (project, target, source, relation)",
)
_RUN_OR_NAME = "coalesce(nullif(body -> 'lineage' ->> 'training_run', ''), name)"
# Table, source, target, relation. Tuning recipes and the data of evaluations are not in the old documents.
_KNOWN = (
    ("model_version", "body -> 'lineage' ->> 'dataset_version'", _RUN_OR_NAME, "TRAINED_ON"),
    ("model_version", "body -> 'lineage' ->> 'parent_model_version'", _RUN_OR_NAME, "CONTINUED_FROM"),
    ("model_version", "body -> 'lineage' ->> 'training_run'", "name", "PRODUCED_BY"),
    ("model_version", "body -> 'lineage' ->> 'model_import'", "name", "IMPORTED_BY"),
    ("model_version", "body ->> 'base_model_version'", "name", "BASED_ON"),
    ("gate_decision", "body ->> 'model_version'", "body -> 'evidence' ->> 'evaluation_run'", "MEASURED"),
    ("gate_decision", "body -> 'evidence' ->> 'baseline'", "body -> 'evidence' ->> 'evaluation_run'", "COMPARED_WITH"),
    ("gate_decision", "body -> 'evidence' ->> 'evaluation_run'", "name", "DECIDED_ON"),
    ("release", "body ->> 'gate_decision'", "name", "ALLOWED_BY"),
    ("release", "body ->> 'model_version'", "name", "RELEASES"),
)


def fill() -> list[str]:
    """Statements that draw what the documents say."""
    return [
        "INSERT INTO lineage_edge (project, source, target, relation)"  # noqa: S608 - all parts stand above.
        f" SELECT split_part(name, '/', 2), {source}, {target}, '{relation}' FROM {table}"
        f" WHERE {source} <> '' AND {target} <> '' ON CONFLICT DO NOTHING"
        for table, source, target, relation in _KNOWN
    ]


def upgrade() -> None:
    for statement in (*_TABLE, *fill()):
        op.execute(statement)
