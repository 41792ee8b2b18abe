"""The command `mainspring`. Modules here import what they need when a command runs, so that `--help` is quick."""

from __future__ import annotations

from mainspring_client.cli.application import app, main

__all__ = ["app", "main"]
