"""The chassis of every Mainspring service: what a service needs that is not its own business.

It owns process lifecycle, settings, telemetry, health, errors, callers' rights, database sessions, idempotency, leased
work and the artifact store. It must not know any service, any event or any resource beyond their names. Services build
on it in their `main.py` and adapters.
"""
