"""The service and the coalescing Go client, beside a native Go server called singly: `python -m bench.native.run`.

The native server is grpc-go and ONNX Runtime in one program, which runs the user tower for one user a call: what the
hardware gives without Python. Our server has one worker. All are processes on this machine, the load program too, which
takes turns between the kinds within every round and first compares the embeddings. A figure is the median (least …
greatest) of the rounds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import onnxruntime
from tests.supervisor.running import Server

from bench.dataset import ensure_release
from bench.run import FOLDER, ROOT
from twotower_server.cli.progress import ProgressBars

GO = os.environ.get("GO", "go")
# By default a heap of a few megabytes is collected all the time, which slows the native server most.
GO_PROGRAMS = {**os.environ, "GOGC": "400"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="of each turn (default: %(default)s)")
    args = parser.parse_args()
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*"), None)
    if library is None:
        sys.exit("The package onnxruntime has no shared library here, so that no Go program can use it.")
    with ProgressBars() as bars:
        # A folder of its own: other benchmarks make other releases active.
        releases = ensure_release(FOLDER / "native", args.items, bars)
    with tempfile.TemporaryDirectory(dir=FOLDER) as temporary, ExitStack() as started:
        native_program, load_program = Path(temporary, "native"), Path(temporary, "loadtest")
        build(Path(__file__).parent, ".", native_program)
        build(ROOT / "clients" / "go", "./internal/loadtest", load_program)

        native = subprocess.Popen(
            [native_program, "-library", library, "-release", releases / f"bench-{args.items}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=GO_PROGRAMS,
        )
        started.enter_context(native)  # it ends with its input
        assert native.stdout is not None
        native_target = native.stdout.readline().strip()
        if not native_target:
            sys.exit("The native server did not start.")

        command = ["-m", "twotower_server.cli.main", "serve", "--releases", str(releases), "--listen", "localhost:0"]
        command += ["--data", str(Path(temporary, "data")), "--workers", "1"]
        server = Server(command, Path(temporary, "log"), {})
        started.callback(server.close)
        target = str(server.ready()["target"])

        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
        load = [str(load_program), "-target", target, "-native", native_target, "-callers", "1,64,512"]
        load += ["-rounds", str(args.rounds), "-duration", f"{args.seconds}s"]
        ran = subprocess.run(load, env=GO_PROGRAMS, check=False)
        print(f"load {os.getloadavg()[0]:.1f}")
    return ran.returncode


def build(module: Path, package: str, program: Path) -> None:
    """Compiles a Go program. Ends this one when that fails, as it does without cgo, a C compiler or the modules."""
    environ = {**os.environ, "CGO_ENABLED": "1"}
    if subprocess.run([GO, "build", "-o", program, package], cwd=module, env=environ, check=False).returncode:
        sys.exit(f"{module.relative_to(ROOT)} does not compile. The native server needs cgo and a C compiler.")


if __name__ == "__main__":
    raise SystemExit(main())
