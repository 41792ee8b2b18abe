"""The ports on Postgres, the outbox and other services."""
