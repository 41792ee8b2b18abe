"""Tables that eventkit keeps in each service's database. Migrations execute these statements; they are never edited,
only added to.
"""

V1 = (
    """
    CREATE TABLE outbox (
        seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id uuid NOT NULL UNIQUE,
        project text NOT NULL,
        type text NOT NULL,
        source text NOT NULL,
        subject text NOT NULL,
        aggregate text NOT NULL,
        cycle text NOT NULL,
        traceparent text NOT NULL,
        data text NOT NULL,
        time timestamptz NOT NULL DEFAULT clock_timestamp(),
        publish_time timestamptz,
        stream_epoch text,
        stream_sequence bigint
    )
    """,
    "CREATE INDEX outbox_unpublished ON outbox (seq) WHERE publish_time IS NULL",
    "CREATE INDEX outbox_published ON outbox (stream_epoch, stream_sequence) WHERE publish_time IS NOT NULL",
    """
    CREATE TABLE processed_event (
        consumer text NOT NULL,
        event_id text NOT NULL,
        time timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (consumer, event_id)
    )
    """,
    "CREATE INDEX processed_event_time ON processed_event (time)",
)
