"""Write sbom.cdx.json (CycloneDX 1.6) from requirements/run.txt, or with --check tell whether it is stale. (IO)

With it goes what may be depended on at all: every package in a lock has a licence that goes with Apache-2.0, as its
installed metadata say, and a name that is not banned. Reads the checkout and the environment, asks nobody.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "sbom.cdx.json"
LOCKS = ROOT / "requirements"
OURS = "infer-gateway"
EXTRAS = ("kubernetes", "otel")
"""Those that the lock has; the first that leads to a package is the one it is said to belong to."""
FINE = frozenset(
    (
        "0BSD", "Apache-2.0", "BSD License", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CNRI-Python", "ISC", "MIT",
        "MIT-0", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib",
    )
)  # fmt: skip
"""What may go along with Apache-2.0, as source or in an image. MPL-2.0 binds its own files, which nobody changes."""
CLASSIFIERS = {
    "MIT License": "MIT",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
SAID = {
    "atheris": "Apache-2.0",
    "colorama": "BSD-3-Clause",  # only on Windows
    "google-re2": "BSD-3-Clause",
    "httpx2-jsfetch": "BSD-3-Clause",  # only in a browser
    "kubernetes-validate": "Apache-2.0",
    "protobuf": "BSD-3-Clause",
    "requests-oauthlib": "ISC",
    "tiktoken": "MIT",
}
"""Where metadata say it in words of their own, or the package is for other systems than this."""
EXCUSED = {"docutils": "makes the site, is given to nobody; mostly public domain, and what is GPL is a mode for Emacs"}
BANNED = {
    "litellm": "a gateway of its own; releases of it have stolen credentials",
    "ctx": "stole environments",
    "colourama": "is not colorama",
    "jeilyfish": "is not jellyfish",
    "python3-dateutil": "is not python-dateutil",
    "request": "is not requests",
}
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?: ; (?P<marker>[^\\\n]+?))? *\\?$")
_HASH = re.compile(r"^ +--hash=sha256:([0-9a-f]{64})")
_VIA = re.compile(r"^ +# +(?:via +)?(?P<by>[A-Za-z0-9._-]+)(?: \(pyproject\.toml(?::(?P<group>[a-z]+))?\))?$")


class Pin(msgspec.Struct):
    """One package of a lock. ``by``: who wants it, by name, ourselves among them; ``group``: for what we do."""

    name: str
    version: str
    marker: str = ""
    hashes: list[str] = []
    by: list[str] = []
    group: str = ""


def pins(lock: str) -> dict[str, Pin]:
    """What a lock file holds, by name and version."""
    found: dict[str, Pin] = {}
    for line in lock.splitlines():
        if pin := _PIN.match(line):
            last = Pin(canonicalize_name(pin["name"]), pin["version"], pin["marker"] or "")
            found[f"{last.name}@{last.version}"] = last
        elif hashed := _HASH.match(line):
            last.hashes.append(hashed[1])
        elif found and (via := _VIA.match(line)) and via["by"] not in ("via", "-c"):
            last.by.append(canonicalize_name(via["by"]))
            last.group = via["group"] or last.group
    return found


def licence(name: str) -> str:
    """An SPDX expression, or the words of its classifier; "" where nothing is known."""
    if name in SAID:
        return SAID[name]
    try:
        known = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ""
    if expression := known.get("License-Expression"):
        return str(expression)
    classified = [
        each.rpartition(" :: ")[2] for each in known.get_all("Classifier", []) if each.startswith("License ::")
    ]
    words = [each for each in classified if each != "OSI Approved"] or [known.get("License", "").strip()]
    return " OR ".join(CLASSIFIERS.get(each, each) for each in words)


def is_fine(expression: str) -> bool:
    """Whether an expression without parentheses around an OR, or one of whose parts all are fine, is on the list."""
    parts = re.split(r" (?:AND|OR) ", re.sub(r"[()]", "", expression))
    if all(part in FINE for part in parts):
        return True
    return " OR " in expression and " AND " not in expression and any(part in FINE for part in parts)


def objections(lock: str, found: dict[str, Pin]) -> list[str]:
    """A line for each package that may not be there."""
    lines = []
    for pin in found.values():
        if pin.name in BANNED:
            lines.append(f"{lock}: {pin.name} is banned: {BANNED[pin.name]}")
        if not pin.hashes:
            lines.append(f"{lock}: {pin.name} has no hash")
        said = licence(pin.name)
        if pin.name in EXCUSED and lock != "run.txt":
            continue
        if not said and not installed(pin.name) and lock != "run.txt":
            continue  # of a group that is not installed here
        if not is_fine(said):
            lines.append(f"{lock}: {pin.name} {pin.version}: its licence is not on the list: {said or 'unknown'}")
    return lines


def installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def document(found: dict[str, Pin], project: dict[str, Any], version: str) -> dict[str, Any]:
    """The bill, less its serial number."""
    names = {pin.name: key for key, pin in found.items()}
    uses = {key: sorted(names[p.name] for p in found.values() if pin.name in p.by) for key, pin in found.items()}
    reached = _reached(found, project)
    direct = sorted(key for key, pin in found.items() if OURS in pin.by)
    ours = {
        "type": "application", "bom-ref": OURS, "name": OURS, "version": version, "purl": f"pkg:pypi/{OURS}@{version}",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }  # fmt: skip
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": ours},
        "components": [_component(key, pin, reached[pin.name]) for key, pin in sorted(found.items())],
        "dependencies": [
            {"ref": OURS, "dependsOn": direct},
            *({"ref": key, "dependsOn": uses[key]} for key in sorted(found)),
        ],
    }


def _component(key: str, pin: Pin, whence: str) -> dict[str, Any]:
    said = licence(pin.name)
    if re.search(r" (?:AND|OR) ", said):
        licences: list[dict[str, Any]] = [{"expression": said}]
    else:
        licences = [{"license": {"name" if " " in said else "id": said}}]
    made: dict[str, Any] = {
        "type": "library", "bom-ref": key, "name": pin.name, "version": pin.version,
        "purl": f"pkg:pypi/{pin.name}@{pin.version}",
        "scope": {"": "required", "build": "excluded"}.get(whence, "optional"),
        "licenses": licences,
        "hashes": [{"alg": "SHA-256", "content": each} for each in sorted(pin.hashes)],
    }  # fmt: skip
    properties = {"extra": whence, "marker": pin.marker}
    told = [{"name": f"{OURS}:{name}", "value": value} for name, value in properties.items() if value]
    return {**made, **({"properties": told} if told else {})}


def _reached(found: dict[str, Pin], project: dict[str, Any]) -> dict[str, str]:
    """By name what leads to it: "" for what everybody has, an extra, or "build"."""
    extras = project["project"]["optional-dependencies"]
    starts = {"": project["project"]["dependencies"], **{name: extras[name] for name in EXTRAS}}
    whence: dict[str, str] = {}
    for extra, wanted in starts.items():
        todo = [canonicalize_name(Requirement(each).name) for each in wanted]
        while todo:
            name = todo.pop()
            if whence.setdefault(name, extra) == extra:
                todo += [pin.name for pin in found.values() if name in pin.by and pin.name not in whence]
    return {pin.name: whence.get(pin.name, "build") for pin in found.values()}


def written(bill: dict[str, Any]) -> str:
    """As a file: the same for the same locks, numbered by what it holds."""
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bill, sort_keys=True))
    text = json.dumps({**bill, "serialNumber": f"urn:uuid:{serial}"}, indent=1)
    return re.sub(r"\{\s+\"alg\": (\S+),\s+\"content\": (\S+)\s+\}", r'{"alg": \1, "content": \2}', text) + "\n"


def current() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    version = re.search(r'__version__ = "(.+)"', (ROOT / "gateway" / "__init__.py").read_text())
    assert version is not None
    return written(document(pins((LOCKS / "run.txt").read_text()), project, version[1]))


def main(arguments: list[str]) -> int:
    problems = [line for lock in sorted(LOCKS.glob("*.txt")) for line in objections(lock.name, pins(lock.read_text()))]
    if "--check" not in arguments:
        FILE.write_text(current())
    elif not FILE.exists() or FILE.read_text() != current():
        problems.append(f"{FILE.name} is stale: run tools/generate_sbom.py")
    for line in problems:
        print(line, file=sys.stderr)
    print("sbom: see above" if problems else "sbom: what is depended on is listed, and may be")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
