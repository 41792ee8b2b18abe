"""What a person chooses about a local stack."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Options:
    """How a stack is started; kept in its state, so that the next start is like this one unless told otherwise.

    Attributes:
        ports: Ports that must be these, by name.
        settings: Settings of single services, `{"trainer": {"torch_threads": "1"}}`.
        import_roots: More folders from which models may be imported.
        triton: Whether Triton is started.
        table: JSON file that takes the place of the table of services.
    """

    ports: dict[str, int] = field(default_factory=dict[str, int])
    settings: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    import_roots: list[str] = field(default_factory=list[str])
    triton: bool = True
    table: str = ""
