"""The bill of materials says what the lock says, and who may not be in a lock is found there."""

from __future__ import annotations

import json
import tomllib

import pytest

from tools import generate_sbom as sbom

LOCK = """
# made by a tool
alpha==1.0 \\
    --hash=sha256:{a} \\
    --hash=sha256:{b}
    # via
    #   -c .cache/lock.txt
    #   infer-gateway (pyproject.toml)
beta==2.0 ; os_name == 'nt' \\
    --hash=sha256:{a}
    # via alpha
gamma==3.0 \\
    --hash=sha256:{a}
    # via
    #   infer-gateway (pyproject.toml)
hatch==4.0 \\
    --hash=sha256:{a}
    # via
    #   infer-gateway (pyproject.toml:build)
""".format(a="a" * 64, b="0" * 64)
PROJECT = {
    "project": {"dependencies": ["alpha>=1"], "optional-dependencies": {"kubernetes": ["Gamma"], "otel": ["beta"]}}
}


@pytest.fixture(autouse=True)
def _mit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("alpha", "beta", "gamma", "hatch"):
        monkeypatch.setitem(sbom.SAID, name, "MIT")


def test_what_a_lock_says() -> None:
    bill = sbom.document(sbom.pins(LOCK), PROJECT, "9")
    parts = {part["name"]: part for part in bill["components"]}
    assert {name: part["scope"] for name, part in parts.items()} == {
        "alpha": "required", "beta": "required", "gamma": "optional", "hatch": "excluded",
    }  # fmt: skip
    assert [each["content"][0] for each in parts["alpha"]["hashes"]] == ["0", "a"]
    assert parts["alpha"]["purl"] == "pkg:pypi/alpha@1.0"
    assert parts["beta"]["properties"] == [{"name": "infer-gateway:marker", "value": "os_name == 'nt'"}]
    assert parts["gamma"]["properties"] == [{"name": "infer-gateway:extra", "value": "kubernetes"}]
    uses = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
    assert uses["infer-gateway"] == ["alpha@1.0", "gamma@3.0", "hatch@4.0"]
    assert (uses["alpha@1.0"], uses["beta@2.0"]) == (["beta@2.0"], [])
    assert sbom.written(bill) == sbom.written(sbom.document(sbom.pins(LOCK), PROJECT, "9"))
    assert (
        json.loads(sbom.written(bill))["serialNumber"]
        != json.loads(sbom.written({**bill, "version": 2}))["serialNumber"]
    )


@pytest.mark.parametrize(
    ("expression", "fine"),
    [
        ("MIT", True), ("BSD License", True), ("Apache-2.0 AND CNRI-Python", True), ("MIT OR GPL-3.0-only", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", True), ("GPL-3.0-only", False), ("MIT AND GPL-3.0-only", False),
        ("AGPL-3.0-only OR LGPL-3.0-only", False), ("MIT AND (MIT OR GPL-3.0-only)", False), ("", False),
    ],
)  # fmt: skip
def test_licences(expression: str, fine: bool) -> None:
    assert sbom.is_fine(expression) is fine


def test_what_may_not_be_in_a_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not sbom.objections("run.txt", sbom.pins(LOCK))
    monkeypatch.setitem(sbom.SAID, "gamma", "AGPL-3.0-only")
    hashed = " \\\n    --hash=sha256:" + "a" * 64 + "\n"
    more = f"LiteLLM==1.0{hashed}bare==1.0\nunheard-of-package==1{hashed}"
    lines = sbom.objections("run.txt", sbom.pins(LOCK + more))
    assert [line for line in lines if "litellm is banned" in line]
    assert [line for line in lines if "bare has no hash" in line]
    assert [line for line in lines if "gamma 3.0: its licence is not on the list: AGPL-3.0-only" in line]
    assert [line for line in lines if "unheard-of-package 1: its licence is not on the list: unknown" in line]


def test_the_file_is_a_bill_of_materials() -> None:
    bill = json.loads(sbom.FILE.read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    refs = [part["bom-ref"] for part in bill["components"]]
    assert len(refs) == len(set(refs)) == len(sbom.pins((sbom.LOCKS / "run.txt").read_text()))
    for each in bill["dependencies"]:
        assert {each["ref"], *each["dependsOn"]} <= {*refs, "infer-gateway"}
    names = {part["name"] for part in bill["components"]}
    project = tomllib.loads((sbom.ROOT / "pyproject.toml").read_text())["project"]
    assert {sbom.canonicalize_name(sbom.Requirement(each).name) for each in project["dependencies"]} <= names
    assert all(part["hashes"] and part["licenses"] for part in bill["components"])
