"""The chassis of every Mainspring service: what a service needs that is not its own business.

It owns process lifecycle, settings, telemetry, health, errors, callers' rights, database sessions, idempotency, leased
work and the artifact store. It must not know any service, any event or any resource beyond their names. Services build
on it in their `main.py` and adapters.
"""

import os

# gRPC starts its threads again in a forked child (uvloop forks), where they crashed about one child in a hundred before
# it became another program. We fork for nothing else. It is read when grpc is imported, so services with children
# import this package first of all.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
