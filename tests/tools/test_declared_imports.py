"""tools/declared_imports.py on a repository of one small distribution."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = """\
[project]
name = "mainspring-sample"
dependencies = [
{dependencies}
]
[project.optional-dependencies]
extra = ["orjson>=3"]
[tool.hatch.build.targets.wheel]
packages = ["src/mainspring_sample"]
"""


def check(root: Path) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "declared_imports.py"), str(root)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    package = tmp_path / "libs" / "sample" / "src" / "mainspring_sample"
    package.mkdir(parents=True)
    (tmp_path / "constraints.txt").write_text("PyYAML==6.0.3\norjson==3.13.0\ngrpcio==1.85.1  # why\n")
    (package / "__init__.py").write_text(
        "import json\nimport yaml\nimport mainspring_sample.other\nfrom . import other\n\n"
        "def late():\n    import orjson\n    return orjson\n"
    )
    (package / "other.py").write_text("")
    declare(tmp_path, '    "pyyaml>=6",')
    return tmp_path


def declare(root: Path, dependencies: str) -> None:
    (root / "libs" / "sample" / "pyproject.toml").write_text(MANIFEST.format(dependencies=dependencies))


def test_a_distribution_that_declares_what_it_imports_passes(sample: Path) -> None:
    assert check(sample) == (0, ["1 distributions declare what they import"])


def test_an_import_that_is_not_declared_is_told_with_its_place(sample: Path) -> None:
    declare(sample, "")
    status, lines = check(sample)
    assert status == 1
    assert lines == [
        "libs/sample/src/mainspring_sample/__init__.py:2: imports yaml; "
        'add "pyyaml" to the dependencies in libs/sample/pyproject.toml'
    ]


def test_packages_of_one_namespace_are_told_apart(sample: Path) -> None:
    module = sample / "libs" / "sample" / "src" / "mainspring_sample" / "other.py"
    module.write_text("from google.protobuf import message\nfrom google.rpc import status_pb2\n")
    pins = sample / "constraints.txt"
    pins.write_text(pins.read_text() + "protobuf==6.33.6\n")
    declare(sample, '    "protobuf>=6,<7",\n    "pyyaml>=6",')
    status, lines = check(sample)
    assert status == 1
    assert [line.split("; ")[0] for line in lines] == [
        "libs/sample/src/mainspring_sample/other.py:2: imports google.rpc.status_pb2"
    ]
    assert '"googleapis-common-protos"' in lines[0]


def test_what_nothing_imports_needs_a_reason(sample: Path) -> None:
    declare(sample, '    "pyyaml>=6",\n    "grpcio>=1.81",')
    status, lines = check(sample)
    assert status == 1
    assert lines == [
        "libs/sample/pyproject.toml:5: nothing imports grpcio; remove it, or say in a comment here what needs it"
    ]
    declare(sample, '    "pyyaml>=6",\n    "grpcio>=1.81",  # its plug-in is loaded by name')
    assert check(sample)[0] == 0


@pytest.mark.parametrize(
    ("pins", "complaint"),
    [
        ("orjson==3.13.0\n", "pyyaml is not pinned; add it to constraints.txt"),
        ("orjson==3.13.0\npyyaml==5.4\n", "pyyaml>=6 forbids 5.4, the pin in constraints.txt; change either"),
    ],
)
def test_a_direct_dependency_is_pinned_within_its_range(sample: Path, pins: str, complaint: str) -> None:
    (sample / "constraints.txt").write_text(pins)
    assert check(sample) == (1, [f"libs/sample/pyproject.toml:4: {complaint}"])


def test_this_repository_declares_what_it_imports() -> None:
    status, lines = check(ROOT)
    assert status == 0, "\n".join(lines)
