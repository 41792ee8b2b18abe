"""The ports on Postgres, the outbox, other services and scoring libraries."""
