"""Check that every direct dependency of pyproject.toml is pinned, allowed and the same in all lock files. (IO)

Reads only the checkout: it finds a forgotten `make lock`, not a newer release.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
GROUPS = {
    "run": ("build",),
    "test": ("build", "test"),
    "check": ("build", "check"),
    "docs": ("docs",),
    "fuzz": ("fuzz",),
}
BESIDE = ("docs", "fuzz")
"""Installed beside what another one installs, so that it has not the project's own dependencies."""
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)", re.MULTILINE)


def pins(lock: str) -> dict[str, set[str]]:
    """Versions by canonical name; several where environment markers divide them."""
    found: dict[str, set[str]] = {}
    for match in PIN.finditer(lock):
        found.setdefault(canonicalize_name(match["name"]), set()).add(match["version"])
    return found


def missing(direct: list[str], pinned: dict[str, set[str]]) -> list[str]:
    """One line for every requirement that has no pin, or one that it does not allow."""
    problems = []
    for requirement in map(Requirement, direct):
        versions = pinned.get(canonicalize_name(requirement.name), set())
        if not versions:
            problems.append(f"{requirement.name} is not pinned")
        problems += [f"{requirement} does not allow {v}" for v in versions if v not in requirement.specifier]
    return problems


def disagreements(locks: dict[str, dict[str, set[str]]]) -> list[str]:
    """Packages that two lock files pin to different versions."""
    problems = []
    names = sorted(set().union(*locks.values()))
    for name in names:
        versions = {frozenset(lock[name]) for lock in locks.values() if name in lock}
        if len(versions) > 1:
            problems.append(f"{name} is pinned to different versions: {sorted(map(sorted, versions))}")
    return problems


def problems(root: Path) -> list[str]:
    """Everything wrong with the lock files under ``root``, ready to print."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    locks = {name: pins((root / "requirements" / f"{name}.txt").read_text()) for name in GROUPS}
    found = disagreements(locks)
    for name, groups in GROUPS.items():
        direct = [] if name in BESIDE else list(project["project"]["dependencies"])
        for group in groups:
            direct += project["dependency-groups"][group]
        found += [f"requirements/{name}.txt: {line}" for line in missing(direct, locks[name])]
    return found


def main() -> int:
    found = problems(ROOT)
    for line in found:
        print(line, file=sys.stderr)
    print("lock: run `make lock`" if found else "lock: every direct dependency is pinned")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
