"""``python -m conformance.replay TRACE …``: `bench replay` without the gateway's command line. (IO)"""

from __future__ import annotations

import argparse
import sys

from conformance.replay.cli import add_arguments, main

parser = argparse.ArgumentParser(prog="bench replay")
add_arguments(parser)
sys.exit(main(parser.parse_args()))
