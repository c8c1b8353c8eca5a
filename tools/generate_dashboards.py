"""Write Grafana's dashboards for the chart, or with --check tell whether they are stale: `make proto`. (IO)

What is on them stands in dashboards/*.yaml; how Grafana wants it said, in dashboard_panels.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.dashboard_panels import Page, dashboard  # noqa: E402

SOURCES = ROOT / "tools" / "dashboards"
FOLDER = ROOT / "charts" / "infer-gateway" / "dashboards"


def pages() -> list[Page]:
    """Raises msgspec.ValidationError where a source says what nobody knows."""
    return [msgspec.yaml.decode(path.read_bytes(), type=Page) for path in sorted(SOURCES.glob("*.yaml"))]


def made() -> dict[str, str]:
    """The files, by name."""
    trees = {f"{page.uid}.json": dashboard(page) for page in pages()}
    return {name: json.dumps(tree, indent=1, ensure_ascii=False) + "\n" for name, tree in trees.items()}


def main(arguments: list[str], folder: Path = FOLDER) -> int:
    wanted = made()
    written = {path.name: path.read_text("utf-8") for path in folder.glob("*.json")}
    if "--check" in arguments:
        if written != wanted:
            print("dashboards: out of date; `make proto` writes them", file=sys.stderr)
        return written != wanted
    for name in written.keys() - wanted.keys():
        (folder / name).unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
