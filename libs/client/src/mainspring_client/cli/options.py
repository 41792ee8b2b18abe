"""Options that many commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Data folder of the local stack [default: $MAINSPRING_DATA or ~/.mainspring].",
        show_default=False,
    ),
]
Project = Annotated[str, typer.Option("--project", "-p", envvar="MAINSPRING_PROJECT", help="Project id.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="Most results.")]
DEFAULT_PROJECT = "default"


def group(help_text: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
