"""``python -m conformance.engines ENGINE …``: the same as ``infer-gateway simulate``. (IO)"""

import argparse
import sys

from conformance.engines import cli

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="infer-gateway simulate")
    cli.add_arguments(parser)
    sys.exit(cli.run(parser.parse_args()))
