"""Check that no file under version control holds a secret. (IO)

What looks like one and is none stands in `KNOWN`, by value; what stands there and is nowhere is complained of, too.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATTERNS = {
    "private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{40,}"),
    "key of AWS": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "key of a provider": re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{16,}"),
    "token of GitHub": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})"),
    "token of GitLab": re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}"),
    "token of Hugging Face": re.compile(r"\bhf_[A-Za-z0-9]{20,}"),
    "token of Slack": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    "key of Google": re.compile(r"\bAIza[0-9A-Za-z_-]{30,}"),
    "token of a registry": re.compile(r"\b(?:npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{40,})"),
    "JWT": re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]+)?"),
    "password in a URL": re.compile(r"[a-z]://[A-Za-z0-9._%+-]+:[A-Za-z0-9._%+!-]{8,}@"),
}
KNOWN = frozenset(
    (
        # invented for tests, and told from real ones by their digits
        "sk-wrong-0123456789", "sk-conformance-0123456789abcdef", "sk-of-nobody-at-all", "sk-very-hidden-0123",
        "sk-proj-abcdefghijklmnopqrstuvwx", "sk-ant-api03-aaaaaaaaaaaaaaaaaaaaaaaa", "sk-nobody-0123456789",
        "hf_abcdefghijklmnopqrstuvwxyz", "AIzaSyA-0123456789abcdefghijklmnopqrs", "sk-mallory-0123456789",
        "sk-provider-24681357",
        # tokens of nobody: unsigned, or with a signature of three letters
        "eyJhbGciOiJub25lIn0.eyJpc3MiOiJ4In0", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0",
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ",
        # words
        "s://user:password@", "p://user:password@", "s://ann:abcdef123456@",
        "sk-ant-in-the-environment", "sk-in-the-environment",
    )
)  # fmt: skip
MADE = ("tests/fuzz/corpus/", "tests/fuzz/signed.json")
"""Tokens that fuzzers begin with, signed by keys that sign nothing else."""
SIZE = 1 << 20
"""Files beyond it are recordings and locks of other makers' formats."""


def suspects(text: str) -> list[tuple[int, str, str]]:
    """(line, what it looks like, its beginning) of everything that looks like a secret and is not known."""
    return sorted(
        (text.count("\n", 0, match.start()) + 1, what, match[0][:12])
        for what, pattern in PATTERNS.items()
        for match in pattern.finditer(text)
        if not _known(match[0])
    )


def _known(value: str) -> bool:
    return any(value == each or value.startswith(f"{each}.") for each in KNOWN)


def main() -> int:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        print("secrets: not a repository, nothing is looked at")
        return 0
    problems, seen = [], set()
    for name in filter(None, listed.stdout.split("\0")):
        file = ROOT / name
        if name.startswith(MADE) or not file.is_file() or file.stat().st_size > SIZE:
            continue
        text = file.read_text(errors="replace")
        problems += [f"{name}:{line}: looks like a {what}: {start}…" for line, what, start in suspects(text)]
        if file != Path(__file__):
            seen.update(each for each in KNOWN if each in text)
    problems += [f"{Path(__file__).name}: {each[:12]}… is nowhere any more" for each in KNOWN - seen]
    for line in sorted(problems):
        print(line, file=sys.stderr)
    print("secrets: see above" if problems else "secrets: none in what is under version control")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
