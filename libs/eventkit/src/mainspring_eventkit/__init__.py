"""Events between services: CloudEvents 1.0 in binary mode on NATS JetStream.

Out: an event is a row in the service's outbox, written in the transaction that it tells of; a relay publishes it. In: a
durable consumer hands an event to a handler in a transaction that also marks it as processed. Postgres is the truth,
the bus is transport.
"""
