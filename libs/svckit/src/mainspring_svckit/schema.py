"""Tables that svckit keeps in each service's database. A service's migrations execute these statements; they are never
edited, only added to.
"""

V1 = (
    """
    CREATE TABLE request (
        project text NOT NULL,
        method text NOT NULL,
        request_id uuid NOT NULL,
        fingerprint bytea NOT NULL,
        response bytea NOT NULL,
        create_time timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (project, method, request_id)
    )
    """,
    "CREATE INDEX request_create_time ON request (create_time)",
    """
    CREATE TABLE work (
        id uuid PRIMARY KEY,
        kind text NOT NULL,
        key text NOT NULL,
        payload jsonb NOT NULL,
        state text NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'done', 'dead')),
        priority integer NOT NULL DEFAULT 0,
        run_after timestamptz NOT NULL DEFAULT now(),
        attempt integer NOT NULL DEFAULT 0,
        lease_owner text,
        lease_token bigint NOT NULL DEFAULT 0,
        lease_expires_at timestamptz,
        again boolean NOT NULL DEFAULT false,
        last_error text,
        create_time timestamptz NOT NULL DEFAULT now(),
        end_time timestamptz,
        UNIQUE (kind, key)
    )
    """,
    "CREATE INDEX work_ready ON work (kind, priority DESC, run_after) WHERE state = 'ready'",
)
