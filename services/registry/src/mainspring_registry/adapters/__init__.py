"""The ports on Postgres, the outbox and child processes."""
