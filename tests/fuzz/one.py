"""One target under libFuzzer, by atheris: `python -m tests.fuzz.one NAME ARGUMENTS…`. (IO)

What is instrumented is the product alone, so that coverage counts its branches and not those of who judges it.
"""

from __future__ import annotations

import importlib
import sys

import atheris

with atheris.instrument_imports(include=["gateway", "protocols", "adapters"]):
    target = importlib.import_module(f"tests.fuzz.targets.{sys.argv[1]}").target

if __name__ == "__main__":
    again = f"{sys.executable} -m tests.fuzz.one {sys.argv[1]}"  # libFuzzer starts itself anew to choose among inputs
    atheris.Setup([again, *sys.argv[2:]], target)
    atheris.Fuzz()
