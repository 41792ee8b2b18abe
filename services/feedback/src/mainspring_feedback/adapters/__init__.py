"""The ports on Postgres and the outbox."""
