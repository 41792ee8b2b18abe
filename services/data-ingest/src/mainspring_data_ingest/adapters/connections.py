"""What sources may be fetched from. Addresses and secrets stand in the service's settings only, never in a resource."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal

from obstore.store import from_url
from pydantic import BaseModel, ConfigDict, SecretStr, TypeAdapter

from mainspring_svckit.errors import InvalidInput


class _Connection(BaseModel):
    """One connection; `projects` may use it, `*` stands for all."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    projects: list[str]

    def serves(self, project: str) -> bool:
        """Whether a project may use it."""
        return project in self.projects or "*" in self.projects


class ObjectStore(_Connection):
    """Objects whose URI begins with `url`.

    Attributes:
        options: What obstore calls the store's configuration, credentials among them.
        allow_http: Also takes an `endpoint` without TLS, for one's own machines.
    """

    kind: Literal["objects"]
    url: str
    options: dict[str, SecretStr] = {}
    allow_http: bool = False

    def open(self) -> Any:
        """The store; does not connect yet."""
        options: Any = {key: value.get_secret_value() for key, value in self.options.items()}
        return from_url(self.url.rstrip("/"), config=options, client_options={"allow_http": self.allow_http})


class PostgresDatabase(_Connection):
    """A Postgres database; give it a user that can only read."""

    kind: Literal["postgres"]
    url: SecretStr


class WebHosts(_Connection):
    """Hosts that files are fetched from by `https`: names, or patterns such as `*.example.org`.

    Attributes:
        allow_private: Also takes `http` and addresses that are not public, for one's own machines.
    """

    kind: Literal["https"]
    hosts: list[str]
    allow_private: bool = False


_PARSED = TypeAdapter(dict[str, ObjectStore | PostgresDatabase | WebHosts])


class Connections:
    """Everything that the settings allow."""

    def __init__(self, by_name: dict[str, ObjectStore | PostgresDatabase | WebHosts]) -> None:
        self._by_name = by_name

    @classmethod
    def parse(cls, text: str) -> Connections:
        """Reads the setting.

        Raises:
            pydantic.ValidationError: It is not of that form.
        """
        by_name = _PARSED.validate_json(text) if text else {}
        for found in by_name.values():
            if isinstance(found, ObjectStore):
                found.open()  # An option that obstore does not know ends the process: here, not at the first request.
        return cls(by_name)

    def objects(self, project: str, uri: str) -> ObjectStore:
        """The store that holds a URI.

        Raises:
            InvalidInput: SOURCE_NOT_ALLOWED.
        """
        for found in self._by_name.values():
            if isinstance(found, ObjectStore) and found.serves(project) and _is_below(uri, found.url):
                return found
        raise _not_allowed(f"no object store that project {project!r} may read holds {uri!r}")

    def database(self, project: str, name: str) -> PostgresDatabase:
        """A database by its name.

        Raises:
            InvalidInput: SOURCE_NOT_ALLOWED.
        """
        found = self._by_name.get(name)
        if isinstance(found, PostgresDatabase) and found.serves(project):
            return found
        raise _not_allowed(f"project {project!r} may read no database called {name!r}")

    def web(self, project: str, host: str) -> WebHosts:
        """What allows a host.

        Raises:
            InvalidInput: SOURCE_NOT_ALLOWED.
        """
        for found in self._by_name.values():
            allowed = isinstance(found, WebHosts) and found.serves(project)
            if isinstance(found, WebHosts) and allowed and any(fnmatchcase(host, pattern) for pattern in found.hosts):
                return found
        raise _not_allowed(f"project {project!r} may fetch nothing from the host {host!r}")


def _is_below(uri: str, url: str) -> bool:
    base = url.rstrip("/")
    return (uri == base or uri.startswith(f"{base}/")) and not {"..", "."} & set(uri.split("/"))


def _not_allowed(what: str) -> InvalidInput:
    message = f"{what}; an operator can allow it in the setting MAINSPRING_SOURCE_CONNECTIONS of data-ingest"
    return InvalidInput(message, reason="SOURCE_NOT_ALLOWED")
