"""What is kept of an object in order to say something of it."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.sources.kube.speaker import packed


def test_of_an_object_its_version_and_its_status_are_kept() -> None:
    metadata = {"name": "n", "uid": "u", "generation": 2, "resourceVersion": "3", "labels": {"a": "b"}}
    status = {"conditions": [{"type": "Ready"}], "replicas": 10**30}
    kept = msgspec.json.decode(packed({"kind": "K", "metadata": metadata, "spec": {"x": 1}, "status": status}))
    assert kept == {"metadata": {"uid": "u", "generation": 2, "resourceVersion": "3"}, "status": status}
    assert msgspec.json.decode(packed({"metadata": {}})) == {"metadata": {}, "status": None}


def test_a_status_that_is_nested_too_deeply_is_none() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    assert msgspec.json.decode(packed({"metadata": {"uid": "u"}, "status": deep})) == {"metadata": {"uid": "u"}}
