"""All tests: side by side what needs a core and hardly more, then alone what starts programs and waits for them. (IO)

Arguments go to pytest. Where they name tests, those are run and nothing else. The exit code is the worst there was.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

ALONE = ("tests/whole", "tests/kube", "tests/charts", "tests/engines", "tests/sdk")
BESIDE = "tests/conformance"


def main(arguments: list[str]) -> int:
    if any(not word.startswith("-") for word in arguments):
        return subprocess.run(_pytest(arguments)).returncode
    others = [f"--ignore={folder}" for folder in (*ALONE, BESIDE)]
    with tempfile.TemporaryFile() as said:
        beside = subprocess.Popen(_pytest([*arguments, BESIDE]), stdout=said, stderr=subprocess.STDOUT)
        try:
            codes = [subprocess.run(_pytest([*arguments, *others])).returncode, beside.wait()]
        finally:
            beside.kill()
        said.seek(0)
        sys.stdout.write(said.read().decode(errors="replace"))
        sys.stdout.flush()
    codes.append(subprocess.run(_pytest([*arguments, *ALONE])).returncode)
    return max(map(abs, codes))


def _pytest(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", "-rs", *arguments]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
