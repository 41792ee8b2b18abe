"""Use cases of lines of immutable versions with labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from mainspring_registry.application.ports import Ports
from mainspring_registry.domain.lines import Line, LineVersion
from mainspring_svckit.errors import InvalidInput, NotFound
from mainspring_svckit.names import ResourceName
from mainspring_svckit.repository import Repository, require

LineT = TypeVar("LineT", bound=Line)
ContentT = TypeVar("ContentT")
VersionT = TypeVar("VersionT", bound=LineVersion[object])


@dataclass(frozen=True)
class Naming:
    """How a kind of line is called.

    Attributes:
        kind: For people.
        line: Names of lines.
        version: Names of versions.
        label: Names of labels.
        differs: Reason of the error when a label would point at another line's version.
    """

    kind: str
    line: type[ResourceName]
    version: type[ResourceName]
    label: type[ResourceName]
    differs: str

    @property
    def version_kind(self) -> str:
        """A version, for people."""
        return f"{self.kind}Version"


class Lines(Generic[LineT, VersionT, ContentT]):
    """Lines of one kind, their versions and labels."""

    def __init__(
        self,
        ports: Ports,
        naming: Naming,
        lines: Repository[LineT],
        versions: Repository[VersionT],
        new_line: Callable[[str, datetime], LineT],
        new_version: Callable[[str, str, ContentT, str, str, datetime], VersionT],
    ) -> None:
        """Takes where they are kept.

        Args:
            ports: Transactions and the clock.
            naming: How they are called.
            lines: Where lines are kept.
            versions: Where versions are kept.
            new_line: Makes a line of a name and a time.
            new_version: Makes a version of its name, its line, content, comment, author and time.
        """
        self._ports, self._naming, self._lines, self._versions = ports, naming, lines, versions
        self._new_line, self._new_version = new_line, new_version

    async def create(self, name: str, content: ContentT, comment: str, author: str) -> VersionT:
        """Writes a version; the newest one's own content again gives that version."""
        self._naming.line.parse(name, "parent")
        async with self._ports.transactions.transaction():
            now = self._ports.clock.now()
            found = await self._lines.get(name, lock=True)
            line = found.value if found is not None else self._new_line(name, now)
            if line.newest:
                newest = await require(self._versions, self._naming.version_kind, line.newest)
                if newest.value.content == content:
                    return newest.value
            line = line.with_version()
            version = self._new_version(line.newest, name, content, comment, author, now)
            await self._lines.put(line)
            return (await self._versions.add(version)).value

    async def version(self, name: str) -> VersionT:
        """A version by number or by label.

        Raises:
            NotFound: There is no such line, label or version.
        """
        kind = self._naming.version_kind
        async with self._ports.transactions.transaction():
            if self._naming.label.matches(name):
                of, _, label = name.rpartition("@")
                line = (await require(self._lines, self._naming.kind, of)).value
                number = line.labels.get(label)
                if number is None:
                    raise NotFound(kind, name)
                name = line.version(number)
            return (await require(self._versions, kind, name)).value

    async def set_label(self, name: str, label: str, version: str) -> LineT:
        """Points a label at a version.

        Raises:
            InvalidInput: The version is another line's.
            NotFound: The line or the version does not exist.
        """
        self._naming.version.parse(version, "version")
        if version.rpartition("/versions/")[0] != name:
            raise InvalidInput(f"{version} is not a version of {name}", reason=self._naming.differs)
        async with self._ports.transactions.transaction():
            line = (await require(self._lines, self._naming.kind, name, lock=True)).value
            await require(self._versions, self._naming.version_kind, version)
            return (await self._lines.put(line.with_label(label, version))).value
