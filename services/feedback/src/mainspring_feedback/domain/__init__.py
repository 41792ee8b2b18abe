"""Answers, judgements and triggers; no I/O."""
