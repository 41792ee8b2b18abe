"""Folders for files in the making."""

import errno
import os
from pathlib import Path

import pytest

from mainspring_svckit.scratch import Scratch, no_space


def test_i5_folders_of_killed_processes_are_removed_and_others_are_kept(tmp_path: Path) -> None:
    scratch = Scratch("job", tmp_path)
    left, young = tmp_path / "mainspring-job-dead", tmp_path / "mainspring-job-young"
    others = tmp_path / "mainspring-other-dead"
    for folder in (left, young, others):
        folder.mkdir()
        (folder / "source-0").write_bytes(b"x")
    os.utime(left, (0, 0))
    os.utime(others, (0, 0))
    with scratch.folder() as used:
        os.utime(used, (0, 0))
        assert scratch.sweep() == 1
        assert sorted(tmp_path.iterdir()) == sorted([used, young, others])
    assert sorted(tmp_path.iterdir()) == sorted([young, others])


def test_other_troubles_of_the_disk_stay_what_they_are() -> None:
    with pytest.raises(PermissionError), no_space("here"):
        raise PermissionError(errno.EACCES, "no")
