"""`twotower serve` with another worker: serve_tiny.py ENTRY [options of serve]."""

from __future__ import annotations

import argparse
import os
import sys

from twotower_server import config
from twotower_server.cli import exit_code
from twotower_server.cli.serve import add_options, announce
from twotower_server.errors import TwoTowerError
from twotower_server.supervisor import log
from twotower_server.supervisor.supervisor import serve

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = config.load(vars(parser.parse_args(sys.argv[2:])), os.environ)
    log.configure(options.log_level, options.log_format, "supervisor")
    try:
        in_order = serve(options, announce, worker=f"tiny_worker:{sys.argv[1]}")
    except TwoTowerError as error:
        print(error, file=sys.stderr)
        sys.exit(exit_code.of(error))
    sys.exit(not in_order)
