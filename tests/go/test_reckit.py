"""The adapters to Reckit, against a real server.

They are compiled with a stand-in for Reckit, which the module proxy does not always serve; with RECKIT_SOURCE, the path
of a checkout of github.com/rushteam/reckit, with Reckit itself.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.go.conftest import MODULE, Switchable

RECKIT = MODULE / "reckit"
DOCUMENT = Path(__file__).parents[2] / "docs" / "reckit.md"
# What the examples of the document stand in. features serves one user and two items, by what Reckit calls of it.
PROGRAM = """package main

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/rushteam/reckit/core"
	"github.com/rushteam/reckit/feature"
	"github.com/rushteam/reckit/pipeline"
	"github.com/rushteam/reckit/rank"
	"github.com/rushteam/reckit/recall"

	"github.com/twotower/twotower/clients/go/reckit"
	"github.com/twotower/twotower/clients/go/twotower"
)

type service struct{ core.FeatureService }

func (service) GetUserFeatures(context.Context, string) (map[string]float64, error) {
	return map[string]float64{"age": 34}, nil
}

func (service) BatchGetItemFeatures(context.Context, []string) (map[string]map[string]float64, error) {
	return map[string]map[string]float64{"i1": {"price": 9.5}, "i2": {"price": 20}}, nil
}

var (
	ctx, _   = context.WithTimeout(context.Background(), time.Minute)
	client, _ = twotower.Dial(ctx, "TARGET", twotower.WithTimeout(time.Minute))
	features  = service{}
	rctx      = &core.RecommendContext{
		UserID:     "u1",
		Attributes: map[string]any{"age": 34, "recent_clicks": []string{"i7", "i9"}},
	}
)

func main() {
	for _, example := range []func() error{
EXAMPLES	} {
		if err := example(); err != nil {
			log.Fatal(err)
		}
	}
}
"""


@pytest.fixture(scope="module")
def modfile(go: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The option that names the go.mod to compile with."""
    source = os.environ.get("RECKIT_SOURCE")
    if source is None:
        return "-modfile=standin.mod"
    real = tmp_path_factory.mktemp("reckit") / "real.mod"
    shutil.copy(RECKIT / "go.mod", real)
    for command in (
        ["edit", f"-replace=github.com/rushteam/reckit={source}", str(real)],
        ["tidy", f"-modfile={real}"],
    ):
        done = _run(go, "mod", *command)
        assert done.returncode == 0, done.stderr
    return f"-modfile={real}"


def test_the_adapters_pass_their_tests_against_a_real_server(go: str, modfile: str, switchable: Switchable) -> None:
    done = _run(go, "test", modfile, "-count=1", "-v", ".", target=switchable.target)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    assert not re.findall(r"^--- SKIP", done.stdout, re.MULTILINE)
    assert len(re.findall(r"^--- PASS", done.stdout, re.MULTILINE)) >= 20


def test_the_example_runs_the_guides_pipeline(go: str, modfile: str, switchable: Switchable) -> None:
    done = _run(go, "run", modfile, "./examples/pipeline", switchable.target)
    assert done.returncode == 0, done.stderr
    ranked = re.findall(r"^ *(\d+)\. (\S+) +score (\S+) +from (\S+)$", done.stdout, re.MULTILINE)
    assert len(ranked) in range(9, 13), "8 by the towers, 4 by popularity, some of them by both"
    # All that the catalog has are scored, best first, whoever recalled them; the one that it lacks comes last.
    scores = [float(score) for *_, score, _ in ranked[:-1]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)
    assert sum("recall.two_tower" in source for *_, source in ranked) == 8
    assert ranked[-1][1:3] == ("not-in-the-catalog", "missing")


def test_every_example_of_the_document_runs(go: str, modfile: str, switchable: Switchable, tmp_path: Path) -> None:
    text = DOCUMENT.read_text("utf-8")
    examples = ""
    for match in re.finditer(r"^```go\n(.*?)^```$", text, re.M | re.S):
        # The compiler's lines are then those of the document.
        place = f"//line {DOCUMENT.name}:{text.count(chr(10), 0, match.start(1)) + 1}"
        examples += f"func() error {{\n{place}\n{match[1]}\nreturn nil\n}},\n"
    # The rank model's own time is short for a machine that does much else.
    examples = examples.replace("200*time.Millisecond", "time.Minute")
    program = PROGRAM.replace("TARGET", switchable.target).replace("EXAMPLES", examples)
    (tmp_path / "main.go").write_text(program, "utf-8")
    done = _run(go, "run", modfile, str(tmp_path / "main.go"))
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "gone is not in the catalog"
    assert re.fullmatch(r"Title \d+ 8", said[1])
    found, score, distance = said[2].split()
    assert int(found) == 100 and float(score) + float(distance) == pytest.approx(1)
    assert said[3:] == ["two_tower", "true"]


def _run(*command: str, target: str = "") -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "TWOTOWER_TEST_TARGET": target}
    return subprocess.run(command, cwd=RECKIT, env=environ, capture_output=True, text=True, timeout=600, check=False)
