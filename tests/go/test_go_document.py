"""The Go examples of docs/go-client.md, compiled as one program and run against a real server of two releases."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import trustme

from tests.go.conftest import MODULE, Switchable

DOCUMENT = Path(__file__).parents[2] / "docs" / "go-client.md"
TEXT = DOCUMENT.read_text("utf-8")
EXAMPLES = [(match.start(1), match[1]) for match in re.finditer(r"^```go\n(.*?)^```$", TEXT, re.M | re.S)]
PACKAGES = {
    name.rpartition("/")[2]: name
    for name in (
        "context",
        "crypto/tls",
        "crypto/x509",
        "errors",
        "fmt",
        "log",
        "math",
        "os",
        "time",
        "github.com/twotower/twotower/clients/go/twotower",
    )
}

# What the text says that the examples stand in.
PROGRAM = """package main

import (
{imports})

var (
	ctx, _ = context.WithTimeout(context.Background(), time.Minute)
	client, _ = twotower.Dial(ctx, {target})
	user = &twotower.User{{ID: "u1", Features: map[string]float64{{"age": 34}}}}
)

func main() {{
	for _, example := range []func() error{{
{examples}	}} {{
		if err := example(); err != nil {{
			log.Fatal(err)
		}}
	}}
}}
"""


def test_every_example_runs(go: str, switchable: Switchable, tmp_path: Path) -> None:
    functions = ""
    for start, example in EXAMPLES:
        # The compiler's lines are then those of the document.
        place = f"//line {DOCUMENT.name}:{TEXT.count(chr(10), 0, start) + 1}"
        functions += f"func() error {{\n{place}\n{example}\nreturn nil\n}},\n"
    functions = functions.replace("localhost:50051", switchable.target)
    functions = functions.replace("2026-05-01", "dot").replace("2026-05-02", "cosine")
    program = PROGRAM.format(
        imports="{imports}", target=f'"{switchable.target}", twotower.WithTimeout(time.Minute)', examples=functions
    )
    imports = "".join(f'\t"{path}"\n' for name, path in PACKAGES.items() if f"{name}." in program)
    (tmp_path / "main.go").write_text(program.replace("{imports}", imports), "utf-8")
    built = _run(go, "build", "-o", str(tmp_path / "program"), str(tmp_path / "main.go"), folder=MODULE)
    assert built.returncode == 0, built.stderr
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    done = _run(str(tmp_path / "program"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for said in (
        "1 ERROR_REASON_VALUE_NOT_FINITE users[1].features[age] ",
        "8 8 3 [2]\n",
        "gone 0 0\ntrue\n",
        "true true\n",
        "ERROR_REASON_FILTER_INVALID filter.all_of[0].conditions[0].attribute ",
        "[1]\n",
        "dot dot\n",
    ):
        assert said in done.stdout, said


def test_the_document_shows_every_method_and_option() -> None:
    shown = "".join(example for _, example in EXAMPLES)
    for path in (MODULE / "twotower").glob("*.go"):
        if path.name.endswith("_test.go"):
            continue
        source = path.read_text("utf-8")
        for name in re.findall(r"^func \(\w+ \*(?:Client|Releases)\) ([A-Z]\w*)\(", source, re.MULTILINE):
            assert f".{name}(" in shown or f"`{name}" in TEXT, name
        for name in re.findall(r"^func (With\w+)\(", source, re.MULTILINE):
            assert name in TEXT, name


def _run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
