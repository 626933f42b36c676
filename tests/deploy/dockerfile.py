"""A Dockerfile, read far enough to do without Docker what it says."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Stage:
    """From one FROM to the next. instructions: (keyword, what follows) in their order, lines joined."""

    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword: str) -> list[str]:
        return [text for found, text in self.instructions if found == keyword]

    def one(self, keyword: str) -> str:
        (text,) = self.all(keyword)
        return text

    def environment(self) -> dict[str, str]:
        """Of ENV and of ARG with a default; `$PATH` and the like are left as they are."""
        words = [word for text in (*self.all("ENV"), *self.all("ARG")) for word in shlex.split(text) if "=" in word]
        return {name: value for name, _, value in (word.partition("=") for word in words)}


def read(path: Path) -> list[Stage]:
    """The stages of a file; what stands before the first FROM is left out."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text("utf-8"), flags=re.MULTILINE)
    stages: list[Stage] = []
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        keyword, _, rest = line.strip().partition(" ")
        if keyword == "FROM":
            stages.append(Stage())
        elif keyword and stages:
            stages[-1].instructions.append((keyword, rest.strip()))
    return stages
