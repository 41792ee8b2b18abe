"""Suites, runs, items and what can be said of them; no I/O."""
