"""Reads ZIP archives of files: every member is a source of its own, and none is ever written under its own name."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mainspring_data_ingest.adapters.jobs import SourceFile
from mainspring_data_ingest.adapters.recognition import recognised
from mainspring_data_ingest.adapters.unpacking import Allowance
from mainspring_data_ingest.application.ports import SourceReader
from mainspring_data_ingest.domain.ingestions import SourceFormat
from mainspring_data_ingest.domain.records import EXCERPT_BYTES, Record
from mainspring_svckit.errors import InvalidInput

MAX_MEMBERS = 65_534
MAX_DIRECTORY_BYTES = 32 << 20
MAX_NAME_CHARACTERS = 300
_CHUNK = 1 << 20
_END = struct.Struct("<4sHHHHIIH")
_SYSTEMS_OWN = ("__MACOSX/", ".DS_Store")


@dataclass(frozen=True)
class ArchiveReader:
    """A ZIP archive. `line` counts its records; excerpts begin with the member's name and the line in it.

    Attributes:
        source: The archive.
        open_member: Opens a member that lies on the disk.
    """

    source: SourceFile
    open_member: Callable[[SourceFile], SourceReader]

    def records(self) -> Iterator[Record]:
        """See `SourceReader`. A member that cannot be used is a record that says why."""
        path = self.source.path
        _check_directory(path)
        number = 0
        try:
            with zipfile.ZipFile(path) as archive:
                members = sorted(archive.infolist(), key=lambda member: member.filename)
                allowance = Allowance(path.stat().st_size)
                for member in members:
                    if member.is_dir() or member.filename.startswith(_SYSTEMS_OWN):
                        continue
                    for record in self._member(archive, member, allowance):
                        number += 1
                        where = f"{member.filename}:{record.line}: ".encode(errors="backslashreplace")
                        values = {"file": member.filename, **record.values} if record.values else {}
                        yield Record(number, (where + record.raw)[:EXCERPT_BYTES], values, record.problem)
        except (zipfile.BadZipFile, NotImplementedError) as err:
            message = "cannot be read as a ZIP archive; it may be damaged or cut short: upload it again"
            raise InvalidInput(message, reason="SOURCE_UNREADABLE") from err

    def _member(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, allowance: Allowance) -> Iterator[Record]:
        problem = _refusal(member)
        if problem:
            yield Record(1, b"", {}, problem)
            return
        target = self.source.path.with_name(f"{self.source.path.name}.member")
        try:
            if not _extracted(archive, member, target, allowance):
                yield Record(1, b"", {}, "is damaged in its archive")
                return
            source_format = recognised(target, member.filename, "its format is not known")
            if source_format is SourceFormat.ZIP:
                yield Record(1, b"", {}, "is an archive in an archive; upload it by itself")
                return
            opened = replace(self.source, path=target, format=source_format, name=member.filename)
            yield from self.open_member(opened).records()
        except InvalidInput as err:
            if err.reason == "SOURCE_TOO_LARGE":
                raise
            yield Record(1, b"", {}, err.message)
        finally:
            for left in target.parent.glob(f"{target.name}*"):
                left.unlink()


def _extracted(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, allowance: Allowance) -> bool:
    """Whether a member could be written to `target`."""
    try:
        with archive.open(member) as packed, target.open("wb") as file:
            while chunk := packed.read(_CHUNK):
                allowance.take(len(chunk))
                file.write(chunk)
    except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, NotImplementedError):
        return False
    return True


def _refusal(member: zipfile.ZipInfo) -> str:
    """Why a member is not read; empty when it is."""
    name = member.filename
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ":" in parts[0] or ".." in parts or "\0" in name:
        return "has a name that leads out of its archive"
    if len(name) > MAX_NAME_CHARACTERS:
        return f"has a name of more than {MAX_NAME_CHARACTERS} characters"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "is a link or a device, not a file"
    if member.flag_bits & 1:
        return "is encrypted; pack it without a password"
    return ""


def _check_directory(path: Path) -> None:
    """Looks at the archive's end before its directory is read into memory.

    Raises:
        InvalidInput: SOURCE_UNREADABLE, it is no archive; SOURCE_TOO_LARGE.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - (1 << 16) - _END.size))
        tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        message = "cannot be read as a ZIP archive; it may be damaged or cut short: upload it again"
        raise InvalidInput(message, reason="SOURCE_UNREADABLE")
    _, _, _, _, members, directory_bytes, _, _ = _END.unpack_from(tail, at)
    if members > MAX_MEMBERS or directory_bytes > MAX_DIRECTORY_BYTES:
        message = f"has more than {MAX_MEMBERS} members; upload it in parts"
        raise InvalidInput(message, reason="SOURCE_TOO_LARGE")
