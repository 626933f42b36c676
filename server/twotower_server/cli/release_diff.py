"""`twotower release diff`: what differs between two releases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from twotower_server.cli.console import print_json, stdout
from twotower_server.cli.exit_code import ExitCode
from twotower_server.cli.release_arguments import Task, add_command, add_data, add_json, positive
from twotower_server.release.diff import Change, FeatureChange, Moves, ReleaseDiff, SetChange, TowerDiff, diff_releases

_DIFF = """\
Compare two releases: schema, towers, calibration, catalog, attributes, training, and how far the lists of the golden
users move, on the items that both releases have.
"""


def add_commands(commands: Any) -> None:
    """Adds diff."""
    diff = add_command(commands, "diff", _diff, "compare two releases", _DIFF)
    diff.add_argument("before", metavar="A", help="a release")
    diff.add_argument("after", metavar="B", help="the release to compare with it")
    diff.add_argument("--k", type=positive, default=100, metavar="K", help="compare the K best items of users (100)")
    add_data(diff)
    add_json(diff)


def _diff(task: Task) -> ExitCode:
    before, after = (task.whole(task.named(name)) for name in (task.args.before, task.args.after))
    diff = diff_releases(before, after, task.args.k)
    if task.args.json:
        print_json(diff.to_json())
    else:
        _show(diff)
    return ExitCode.OK


def _show(diff: ReleaseDiff) -> None:
    out = stdout()
    out.print(_changes(diff.facts, diff))
    for tower in (diff.user, diff.item):
        for line in _tower(tower):
            out.print(line, soft_wrap=True)
    out.print(f"catalog: {diff.catalog.common:,} items in both; {_set(diff.catalog)}", soft_wrap=True)
    for title, changes in (("attributes", diff.attributes), ("training", diff.training)):
        if changes:
            out.print(f"{title}:")
            out.print(_changes(changes, diff))
        else:
            out.print(f"{title}: the same")
    for line in _moves(diff.moves):
        out.print(line)


def _changes(changes: Sequence[Change], diff: ReleaseDiff) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", diff.before, diff.after, ""):
        table.add_column(name, overflow="fold")
    for change in changes:
        differs = "" if change.before == change.after else "≠"
        table.add_row(change.name, _value(change.before), _value(change.after), differs)
    return table


def _tower(tower: TowerDiff) -> list[str]:
    graph = "the same graph" if tower.same_graph else "another graph"
    if tower.same_schema:
        return [f"{tower.side} tower: {graph}, the same schema"]
    lines = [f"{tower.side} tower: {graph}, another schema"]
    if tower.transforms.before != tower.transforms.after:
        lines.append(f"  ~ transforms: {_change(tower.transforms)}")
    lines += [f"  + {name}" for name in tower.added]
    lines += [f"  - {name}" for name in tower.removed]
    return lines + [f"  ~ {feature.feature}: {_feature(feature)}" for feature in tower.changed]


def _feature(feature: FeatureChange) -> str:
    parts = [f"{change.name} {_change(change)}" for change in feature.changes]
    if feature.vocabulary is not None:
        parts.append(f"vocabulary {_set(feature.vocabulary)}")
    return "; ".join(parts)


def _set(change: SetChange) -> str:
    def some(count: int, what: str, examples: Sequence[str]) -> str:
        more = ", …" if count > len(examples) else ""
        return f"{count:,} {what}" + (f" ({', '.join(examples)}{more})" if count else "")

    if not change.added and not change.removed:
        return "none added or removed"
    return (
        f"{some(change.added, 'added', change.added_examples)}, "
        f"{some(change.removed, 'removed', change.removed_examples)}"
    )


def _moves(moves: Moves | None) -> list[str]:
    if moves is None:
        return ["lists: cannot be compared; the releases have no item or no golden user in common"]
    return [
        f"lists of {moves.users} golden users, on the {moves.items:,} items in both:",
        f"  best {moves.k}: {moves.overlap_mean:.1%} in common in the mean, {moves.overlap_min:.1%} at the least",
        f"  best item: another for {moves.best_changed:.1%} of users",
    ]


def _change(change: Change) -> str:
    return f"{_value(change.before)} → {_value(change.after)}"


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        # The kind of a rule or transform needs no name.
        return " ".join(
            _value(inner) if name in ("rule", "type", "value") else f"{name} {_value(inner)}"
            for name, inner in value.items()
        )
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
