"""A Prometheus of one's own on loopback, and what it answers. (IO)"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.process import eventually
from tests.whole.envoy import unused_address

PROGRAM = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(PROGRAM is None, reason="prometheus is not installed (Debian: prometheus)")


class Prometheus(NamedTuple):
    address: str

    def get(self, path: str, **parameters: str | float) -> Any:
        """The data of an answer. Raises AssertionError with what Prometheus says against it."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                said = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None
        assert said["status"] == "success"
        assert not said.get("warnings"), said
        return said["data"]

    def value(self, query: str) -> float | None:
        """Of the first series; None where there is none."""
        found = self.get("query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def prometheus(folder: Path, rules: Path, *targets: str) -> Iterator[Prometheus]:
    """Scrapes ``targets`` and evaluates ``rules`` every second; keeps what it knows in ``folder``."""
    every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    labelled = [{"targets": list(targets), "labels": {"namespace": "llm"}}]
    tree = {
        "global": every,
        "rule_files": [str(rules)],
        "scrape_configs": [{"job_name": "gw", "static_configs": labelled}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(tree))
    address = unused_address()
    options = {"config.file": folder / "prometheus.yml", "storage.tsdb.path": folder / "data", "log.level": "warn"}
    command = [str(PROGRAM), *(f"--{name}={value}" for name, value in options.items())]
    command += [f"--web.listen-address={address}", "--enable-feature=exemplar-storage"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            found = Prometheus(address)
            assert eventually(found.ready, 30), (folder / "log").read_text()
            yield found
        finally:
            process.terminate()
            process.wait(30)
