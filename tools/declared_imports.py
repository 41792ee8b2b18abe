"""Checks that every distribution of this repository declares what it imports, and nothing else.

usage: python tools/declared_imports.py [ROOT]

Three rules, each broken one a line `file:line: what is wrong; what to do`, and exit status 1:

1. What a distribution's sources import stands in its pyproject.toml, under dependencies or in an extra.
2. What stands there is imported; what is needed without that (a program, a plug-in, data) has a comment on its line.
3. Every direct dependency on somebody else's package is pinned in the constraints of its environment, within its range.

Which distribution an import comes from is read from the installed packages; one that is not installed here, since it
belongs to a worker's environment, is taken to be named like its distribution.
"""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

MANIFESTS = ("libs/*/pyproject.toml", "services/*/pyproject.toml", "services/*/*/pyproject.toml")
CONSTRAINTS = "constraints.txt"
# Modules that a program brings which runs ours: Triton puts this one on the path of a model.
BROUGHT = {"triton_python_backend_utils"}
# Distributions that live in an environment of their own, with versions of its own.
OTHER_CONSTRAINTS = {"mainspring-engine": "constraints-engine.txt"}


@dataclass
class Distribution:
    """One pyproject.toml and the sources that it packs.

    Attributes:
        name: Canonical name.
        manifest: The pyproject.toml.
        packages: Folders of the import packages, as its wheel has them.
        declared: Requirement and line by canonical name, extras included.
    """

    name: str
    manifest: Path
    packages: list[Path]
    declared: dict[str, tuple[Requirement, int]] = field(default_factory=dict[str, tuple[Requirement, int]])

    @property
    def top_levels(self) -> set[str]:
        """Names under which it is imported."""
        return {package.name for package in self.packages}


def main(root: Path) -> int:
    """Prints what is wrong below `root`; returns the exit status."""
    distributions = [read(path) for pattern in MANIFESTS for path in sorted(root.glob(pattern))]
    ours = {name: one.name for one in distributions for name in one.top_levels}
    wrong = [line for one in distributions for line in check(one, ours, root)]
    print("\n".join(wrong) if wrong else f"{len(distributions)} distributions declare what they import")
    return 1 if wrong else 0


def read(manifest: Path) -> Distribution:
    """Reads a pyproject.toml that is built by hatchling."""
    text = manifest.read_text()
    content = tomllib.loads(text)
    project = content["project"]
    packages = content["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    made = Distribution(canonicalize_name(project["name"]), manifest, [manifest.parent / path for path in packages])
    extras = project.get("optional-dependencies", {}).values()
    for requirement in [*project.get("dependencies", []), *(one for extra in extras for one in extra)]:
        parsed = Requirement(requirement)
        made.declared[canonicalize_name(parsed.name)] = (parsed, _line_of(text, requirement))
    return made


def check(one: Distribution, ours: dict[str, str], root: Path) -> Iterator[str]:
    """What is wrong with one distribution, a line each.

    Args:
        one: The distribution.
        ours: Distribution by top-level name, for those of this repository.
        root: Folder that paths are printed relative to.
    """
    manifest = one.manifest.relative_to(root)
    used: set[str] = set()
    missing: set[str] = set()
    for path, line, module in imports(one):
        wanted = source_of(module, ours)
        used |= wanted
        if not wanted & {*one.declared, *missing, one.name}:
            name = min(wanted)
            missing.add(name)  # Its first import is enough to tell of.
            yield f'{path.relative_to(root)}:{line}: imports {module}; add "{name}" to the dependencies in {manifest}'
    lines = one.manifest.read_text().splitlines()
    constraints = OTHER_CONSTRAINTS.get(one.name, CONSTRAINTS)
    pins = _pins(root / constraints)
    for name, (requirement, line) in one.declared.items():
        if name not in used and "#" not in lines[line - 1]:
            yield f"{manifest}:{line}: nothing imports {name}; remove it, or say in a comment here what needs it"
        if name in ours.values():
            continue
        if name not in pins:
            yield f"{manifest}:{line}: {name} is not pinned; add it to {constraints}"
        elif not requirement.specifier.contains(pins[name], prereleases=True):
            yield f"{manifest}:{line}: {requirement} forbids {pins[name]}, the pin in {constraints}; change either"


def imports(one: Distribution) -> Iterator[tuple[Path, int, str]]:
    """Every import of another package in a distribution's sources: file, line, dotted name."""
    for package in one.packages:
        for path in sorted(package.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(), str(path))):
                for module in _modules(node):
                    if module.partition(".")[0] not in sys.stdlib_module_names | BROUGHT | one.top_levels:
                        yield path, node.lineno, module  # type: ignore[attr-defined]


def source_of(module: str, ours: dict[str, str]) -> set[str]:
    """The distributions that a dotted name may come from; more than one when they share a namespace package."""
    top = module.partition(".")[0]
    if top in ours:
        return {ours[top]}
    installed = installed_modules()
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        found = installed.get(".".join(parts[:length]))
        if found is not None:
            return found
    return {canonicalize_name(top)}


@cache
def installed_modules() -> dict[str, set[str]]:
    """The distributions that have files below each dotted name, among the installed ones."""
    found: dict[str, set[str]] = {}
    for distribution in importlib.metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"])
        for path in distribution.files or ():
            if path.suffix in {".py", ".so"} and ".." not in path.parts:
                parts = [*path.parts[:-1], path.name.partition(".")[0]]
                for length in range(1, len(parts) + 1):
                    found.setdefault(".".join(parts[:length]), set()).add(name)
    return found


def _modules(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), level=0, names=names):
            return [f"{module}.{alias.name}" for alias in names]
        case ast.Call(
            func=ast.Attribute(attr="import_module" | "find_spec") | ast.Name(id="import_module" | "find_spec"),
            args=[ast.Constant(value=str(module))],
        ):
            return [module]
        case _:
            return []


def _pins(path: Path) -> dict[str, Version]:
    pins: dict[str, Version] = {}
    for line in path.read_text().splitlines():
        pin = re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line.partition("#")[0].strip())
        if pin:
            pins[canonicalize_name(pin[1])] = Version(pin[2])
    return pins


def _line_of(text: str, requirement: str) -> int:
    """Line on which a requirement stands in quotes, from 1."""
    return next(number for number, line in enumerate(text.splitlines(), 1) if f'"{requirement}"' in line)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))
