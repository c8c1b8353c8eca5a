"""What is known of pinned versions, and what is said where nothing is."""

from __future__ import annotations

import datetime
import json
import tomllib

from tools import audit

LOCK = "H2==4.2.0 \\\n    --hash=sha256:0\nh11==0.16.0\nother==1\n"
TABLE = {
    "fixed": [
        {"package": "h2", "version": "4.3.0", "ids": ["CVE-1", "CVE-2"]},
        {"package": "h11", "version": "0.16.0", "ids": ["CVE-3"]},
    ],
    "accepted": [],
}
LATER, TODAY = datetime.date(2030, 1, 1), datetime.date(2029, 1, 1)


def test_a_version_before_the_fixed_one() -> None:
    assert audit.vulnerable("run.txt", LOCK, TABLE) == ["run.txt: H2 4.2.0: CVE-1, CVE-2; fixed in 4.3.0"]
    accepted = [{"package": "h2", "id": name, "reason": "not reached", "until": LATER} for name in ("CVE-1", "CVE-2")]
    assert not audit.vulnerable("run.txt", LOCK, {**TABLE, "accepted": accepted})
    assert audit.vulnerable("run.txt", LOCK, {**TABLE, "accepted": accepted[:1]})


def test_what_is_accepted_is_so_for_a_time_and_a_reason() -> None:
    entry = {"package": "h2", "id": "CVE-1", "reason": "not reached", "until": TODAY}
    assert not audit.overdue({"accepted": [entry]}, TODAY)
    (line,) = audit.overdue({"accepted": [entry]}, LATER)
    assert "h2: CVE-1 was accepted until 2029-01-01" in line
    (line,) = audit.overdue({"accepted": [{**entry, "reason": ""}]}, TODAY)
    assert "without a reason" in line


def test_what_the_index_says() -> None:
    found = {"name": "h2", "version": "4.2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["4.3.0"]}]}
    silent = {"name": "x", "skip_reason": "Dependency not found"}
    lines, said = audit.judged("run.txt", json.dumps({"dependencies": [found, silent, silent]}), "")
    assert lines == ["run.txt: h2 4.2.0: CVE-1; fixed in 4.3.0"]
    assert said == "run.txt: of 3 packages the index does not say anything of 2"
    assert audit.judged("run.txt", "", "a\nno route to host\n") == (
        [],
        "run.txt: pip-audit cannot say: no route to host",
    )


def test_the_table_can_be_read() -> None:
    table = tomllib.loads(audit.TABLE.read_text())
    assert all(entry["ids"] and audit.Version(entry["version"]) for entry in table["fixed"])
    packages = [entry["package"] for entry in table["fixed"]]
    assert len(packages) == len(set(packages))
