"""Entities, state machines and rules; no I/O."""
