"""`twotower serve` with entries of a test: serve_patched.py WORKER VERIFIER PATCH [options of serve].

Each of the three is `module:function`, or `-` for the product's own. PATCH is called in the supervisor, before it
serves.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from twotower_server import config
from twotower_server.cli import exit_code
from twotower_server.cli.serve import add_options, announce
from twotower_server.errors import TwoTowerError
from twotower_server.supervisor import log, supervisor


def main(arguments: list[str]) -> int:
    worker, verifier, patch, *arguments = arguments
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = config.load(vars(parser.parse_args(arguments)), os.environ)
    log.configure(options.log_level, options.log_format, "supervisor")
    if verifier != "-":
        supervisor.VERIFIER = verifier
    if patch != "-":
        module, _, function = patch.partition(":")
        getattr(importlib.import_module(module), function)()
    try:
        in_order = supervisor.serve(options, announce, worker=supervisor.WORKER if worker == "-" else worker)
    except TwoTowerError as error:
        print(error, file=sys.stderr)
        return exit_code.of(error)
    return 0 if in_order else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
