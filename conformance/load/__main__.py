"""`python -m conformance.load`: the load generator on its own. (IO)

Invariant: takes exactly the options of `infer-gateway bench`.
"""

from __future__ import annotations

import argparse
import sys

from . import cli

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="infer-gateway bench", description="Load against any OpenAI URL.")
    cli.add_arguments(parser)
    sys.exit(cli.main(parser.parse_args()))
