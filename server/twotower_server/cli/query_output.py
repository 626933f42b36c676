"""What `twotower query` prints: tables for people, one JSON document for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import twotower
from twotower_server.cli.console import print_json, stdout

_VALUES_IN_A_LINE = 8


def show_user(embedding: twotower.UserEmbedding, as_json: bool) -> None:
    """The vector of one user, with its norm."""
    if as_json:
        values = _shortest(embedding.values)
        return print_json({**_served(embedding), "dimension": len(values), "values": values})
    console = stdout()
    norm = float(np.linalg.norm(embedding.values))
    console.print(f"{_origin(embedding)} · dimension {len(embedding.values)} · norm {norm:.4f}")
    _print_values(console, embedding.values)


def show_items(embeddings: twotower.ItemEmbeddings, item_ids: Sequence[str], as_json: bool) -> None:
    """The vectors of items; of a new one when there are no ids."""
    vectors = [embeddings[position] for position in range(len(embeddings))]
    names = item_ids or ["(new item)"] * len(vectors)
    dimension = embeddings.matrix.shape[1]
    if as_json:
        items = [
            {
                **({"item_id": item_id} if item_ids else {}),
                "missing": vector is None,
                "values": None if vector is None else _shortest(vector.values),
            }
            for item_id, vector in zip(names, vectors, strict=True)
        ]
        return print_json({"release": embeddings.release, "dimension": dimension, "items": items})
    console = stdout()
    console.print(f"release {embeddings.release} · dimension {dimension}")
    for item_id, vector in zip(names, vectors, strict=True):
        if vector is None:
            console.print(f"{item_id}: not in the catalog")
        else:
            console.print(f"{item_id}: norm {float(np.linalg.norm(vector.values)):.4f}")
            _print_values(console, vector.values)


def show_scores(scores: twotower.Scores, as_json: bool) -> None:
    """The candidates, best first; those that the catalog lacks at the end."""
    missing = set(scores.missing_indices.tolist())
    order = scores.order().tolist()
    if as_json:
        values, similarities = _shortest(scores.scores), _shortest(scores.similarities)
        items = [
            {
                "item_id": scores.item_ids[position],
                "score": values[position],
                "similarity": None if position in missing else similarities[position],
                "missing": position in missing,
            }
            for position in order
        ]
        return print_json({**_served(scores), "items": items})
    table = _table()
    for rank, position in enumerate(order, start=1):
        item_id = scores.item_ids[position]
        if position in missing:
            table.add_row("", item_id, "not in the catalog", "")
        else:
            table.add_row(str(rank), item_id, *_numbers(scores.scores[position], scores.similarities[position]))
    console = stdout()
    console.print(_origin(scores))
    console.print(table)


def show_recommendations(recommendations: twotower.Recommendations, attributes: Sequence[str], as_json: bool) -> None:
    """The items, best first, with a column for each of the attributes."""
    if as_json:
        values, similarities = _shortest(recommendations.scores), _shortest(recommendations.similarities)
        items = [
            {
                "item_id": item.item_id,
                "score": score,
                "similarity": similarity,
                "attributes": dict(item.attributes),
            }
            for item, score, similarity in zip(recommendations.items, values, similarities, strict=True)
        ]
        return print_json({**_served(recommendations), "items": items})
    table = _table(attributes)
    for rank, item in enumerate(recommendations.items, start=1):
        cells = [_cell(item.attributes.get(name)) for name in attributes]
        table.add_row(str(rank), item.item_id, *cells, *_numbers(item.score, item.similarity))
    console = stdout()
    console.print(_origin(recommendations))
    console.print(table if recommendations.items else "No item matches; loosen the filter or the exclusions.")


def _served(result: twotower.UserEmbedding | twotower.Scores | twotower.Recommendations) -> dict[str, Any]:
    use = result.feature_use
    return {
        "release": result.release,
        "source": result.source.name.lower(),
        "age_ms": result.age_ms,
        "feature_use": use and {"used": use.used, "missing": use.missing, "unknown": use.unknown},
    }


def _origin(result: twotower.UserEmbedding | twotower.Scores | twotower.Recommendations) -> str:
    age = "" if result.age_ms is None else f", {result.age_ms} ms old"
    line = f"release {result.release} · user vector {result.source.name.lower()}{age}"
    use = result.feature_use
    return f"{line} · features: {use.used} used, {use.missing} missing, {use.unknown} unknown" if use else line


def _numbers(score: float, similarity: float) -> tuple[str, str]:
    """Exactly 0 means missing, so a tiny score must not look like it."""
    return f"{score:.4f}" if score >= 0.0001 else f"{score:.1e}", f"{similarity:.4f}"


def _cell(value: str | float | bool | tuple[str, ...] | None) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case tuple():
            return ", ".join(value)
        case float():
            return f"{value:.15g}"
    return str(value)


def _table(attributes: Sequence[str] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("#", justify="right")
    for name in ("item", *attributes):
        table.add_column(name, overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("similarity", justify="right")
    return table


def _print_values(console: Console, values: np.ndarray[Any, Any]) -> None:
    for start in range(0, len(values), _VALUES_IN_A_LINE):
        line = values[start : start + _VALUES_IN_A_LINE]
        console.print("  " + " ".join(f"{value:9.5f}" for value in line))


def _shortest(values: np.ndarray[Any, Any]) -> list[float]:
    """float32 values by their shortest digits: 0.1, not 0.10000000149011612."""
    return [float(str(value)) for value in values.astype(np.float32)]
