"""Generates `libs/contracts` from `protos/`, or checks that nobody edited it.

usage: python tools/protos.py third-party | generate | check | descriptors

Two imports of our contracts come from others and are fetched instead of kept here: Google's protos from the installed
package `googleapis-common-protos`, and `buf/validate/validate.proto` from the source archive of protovalidate 1.2.0
(the wheels of version 2 carry only the compiled descriptor).
"""

from __future__ import annotations

import filecmp
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
THIRD_PARTY = ROOT / ".build" / "third_party_protos"
OUT = ROOT / "libs" / "contracts" / "src"
DESCRIPTOR_SET = ROOT / ".build" / "mainspring.binpb"

VALIDATE_ARCHIVE = "protovalidate==1.2.0"
VALIDATE_MEMBER = "protovalidate-1.2.0/upstream/proto/buf/validate/validate.proto"
VALIDATE_SHA256 = "817951eab518442950f1982be24b2c3154b214b40e42f49b915cbf5181e6ee80"
GOOGLE_PROTOS = ("google/api/field_behavior.proto", "google/rpc/status.proto")

VALIDATE_PB2 = '''\
"""Registers `buf/validate/validate.proto` for the generated modules, from the descriptor that protovalidate carries.
Made by tools/protos.py.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, field_mask_pb2, timestamp_pb2
from protovalidate import ViolationPb

_DEPENDENCIES = (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2)

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(ViolationPb.desc().file.proto.to_binary())
'''


def fetch_third_party() -> None:
    """Fills `.build/third_party_protos`. Needs the package registry once; later calls find the files."""
    target = THIRD_PARTY / "buf" / "validate" / "validate.proto"
    if not target.exists() or _sha256(target) != VALIDATE_SHA256:
        with tempfile.TemporaryDirectory() as scratch:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-qq",
                "--no-deps",
                "--no-binary",
                ":all:",
                "-d",
                scratch,
                VALIDATE_ARCHIVE,
            ]
            subprocess.run(command, check=True)
            (archive,) = Path(scratch).glob("protovalidate-*.tar.gz")
            with tarfile.open(archive) as tar:
                member = tar.extractfile(VALIDATE_MEMBER)
                assert member is not None, f"{archive} lacks {VALIDATE_MEMBER}"
                content = member.read()
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        if _sha256(target) != VALIDATE_SHA256:
            sys.exit(
                f"{target} is not the file that tools/protos.py expects; look at it before you change the digest there"
            )
    installed = importlib.metadata.distribution("googleapis-common-protos")
    for name in GOOGLE_PROTOS:
        source = Path(str(installed.locate_file(name)))
        copy = THIRD_PARTY / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)


def generate(out: Path) -> None:
    """Writes the generated packages below `out`."""
    fetch_third_party()
    ours = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    services = [name for name in ours if name.endswith("_service.proto")]
    # Packages are namespace packages, so that `mainspring.registry.v1` is at once the folder, the proto package and the
    # import.
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{THIRD_PARTY}"]
    # protoc looks for its plug-ins (mypy-protobuf) on PATH.
    env = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
    (out / "mainspring").mkdir(parents=True, exist_ok=True)
    subprocess.run([*protoc, f"--python_out={out}", f"--mypy_out=quiet:{out}", *ours], check=True, env=env)
    subprocess.run(
        [*protoc, f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}", *services], check=True, env=env
    )
    bridge = out / "buf" / "validate" / "validate_pb2.py"
    bridge.parent.mkdir(parents=True, exist_ok=True)
    bridge.write_text(VALIDATE_PB2)
    bridge.with_suffix(".pyi").write_text(
        "from google.protobuf.descriptor import FileDescriptor\n\nDESCRIPTOR: FileDescriptor\n"
    )
    (out / "mainspring" / "py.typed").touch()


def write_descriptors() -> None:
    """Writes one self-contained descriptor set, for clients that load contracts at run time."""
    fetch_third_party()
    ours = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    options = ["--include_imports", "--include_source_info", f"--descriptor_set_out={DESCRIPTOR_SET}"]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{THIRD_PARTY}", *options, *ours], check=True
    )


def check() -> None:
    """Fails when `libs/contracts` is not what `protos/` generates."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate(fresh)
        wanted = {path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file()}
        present = {
            path.relative_to(OUT) for path in OUT.rglob("*") if path.is_file() and "__pycache__" not in path.parts
        }
        drift = sorted(str(path) for path in wanted ^ present)
        drift += sorted(
            str(path) for path in wanted & present if not filecmp.cmp(fresh / path, OUT / path, shallow=False)
        )
    if drift:
        sys.exit("libs/contracts is not what protos/ generates; run `make proto`:\n  " + "\n  ".join(drift))


def main() -> None:
    match sys.argv[1:]:
        case ["third-party"]:
            fetch_third_party()
        case ["generate"]:
            shutil.rmtree(OUT, ignore_errors=True)
            generate(OUT)
        case ["check"]:
            check()
        case ["descriptors"]:
            write_descriptors()
        case _:
            sys.exit(__doc__)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
