"""The local stack: NATS, Postgres, Triton and all services on one machine, under one supervisor, with one data folder.

`component` runs one process; `nats`, `postgres`, `triton` and `services` say what to run; `supervisor` runs all of it.
Nothing here is used in a cluster.
"""
