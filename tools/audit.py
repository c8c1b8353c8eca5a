"""Whether a lock pins what is known to be vulnerable, by tools/advisories.toml and with --ask by pip-audit. (IO)

Without --ask nothing outside is asked, so that it finds what the table knows and no more. With it, an index that does
not serve what pip-audit asks for is told of in a line and fails nothing: to know nothing is not to know of something.
"""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tools" / "advisories.toml"
ASKED_S = 240
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)", re.MULTILINE)
Known = dict[str, Any]


def vulnerable(lock: str, text: str, table: Known) -> list[str]:
    """A line for each pin of a lock that is older than what is fixed, less what is accepted."""
    fixed = {entry["package"]: entry for entry in table["fixed"]}
    lines = []
    for pin in _PIN.finditer(text):
        entry = fixed.get(canonicalize_name(pin["name"]))
        if entry is None or Version(pin["version"]) >= Version(entry["version"]):
            continue
        open_ids = sorted(set(entry["ids"]) - accepted(table, entry["package"]))
        if open_ids:
            lines.append(f"{lock}: {pin['name']} {pin['version']}: {', '.join(open_ids)}; fixed in {entry['version']}")
    return lines


def accepted(table: Known, package: str) -> set[str]:
    return {entry["id"] for entry in table["accepted"] if entry["package"] == package}


def overdue(table: Known, today: datetime.date) -> list[str]:
    """What was accepted for a time that is over, or without a reason."""
    lines = []
    for entry in table["accepted"]:
        if entry["until"] < today:
            lines.append(f"{entry['package']}: {entry['id']} was accepted until {entry['until']}: look at it again")
        if not entry.get("reason"):
            lines.append(f"{entry['package']}: {entry['id']} is accepted without a reason")
    return lines


def asked(lock: Path, table: Known) -> tuple[list[str], str]:
    """What pip-audit finds in a lock, and what is to be said of the asking."""
    known = [word for entry in table["accepted"] for word in ("--ignore-vuln", entry["id"])]
    command = [sys.executable, "-m", "pip_audit", "-r", str(lock), "--require-hashes", "--disable-pip", *known]
    try:
        done = subprocess.run(
            [*command, "--format", "json", "--progress-spinner", "off", "--timeout", "10"],
            capture_output=True, text=True, timeout=ASKED_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [], f"{lock.name}: no answer within {ASKED_S} s: nothing is known"
    return judged(lock.name, done.stdout, done.stderr)


def judged(lock: str, answer: str, complaints: str) -> tuple[list[str], str]:
    """pip-audit's answer."""
    try:
        packages = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (complaints.strip().splitlines() or ["it said nothing"])[-1]
        return [], f"{lock}: pip-audit cannot say: {last[:200]}"
    lines = [
        f"{lock}: {package['name']} {package['version']}: {found['id']}; fixed in {', '.join(found['fix_versions'])}"
        for package in packages
        for found in package.get("vulns", ())
    ]
    silent = sum("skip_reason" in package for package in packages)
    return lines, f"{lock}: of {len(packages)} packages the index does not say anything of {silent}"


def main(arguments: list[str]) -> int:
    table = tomllib.loads(TABLE.read_text())
    problems = overdue(table, datetime.datetime.now(datetime.UTC).date())
    for lock in sorted((ROOT / "requirements").glob("*.txt")):
        problems += vulnerable(lock.name, lock.read_text(), table)
        if "--ask" in arguments:
            found, said = asked(lock, table)
            problems += found
            print(f"audit: {said}")
    for line in problems:
        print(line, file=sys.stderr)
    more = "" if "--ask" in arguments else "; `make audit` asks the index"
    fine = f"no pin is older than what {len(table['fixed'])} packages with advisories were fixed in"
    print("audit: see above" if problems else f"audit: {fine}{more}")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
