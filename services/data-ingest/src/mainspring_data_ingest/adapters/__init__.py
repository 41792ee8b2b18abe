"""The ports on Postgres, the outbox, files and child processes."""
