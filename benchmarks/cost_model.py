"""Cost of a step by formulas, beside the measured one.

    python -m benchmarks.cost_model benchmarks/results/published.json

Shapes: B tasks at a time, S support and Q query images of one, n = S + Q; c classes, D features
with the constant; K lower steps. Bytes are those of float32. docs/performance.md derives the
formulas.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.fewshot import WAY

NUMBER, INDEX = 4, 8  # bytes of a float32, and of a pooling's int64
# A network's lower step: its forward and backward, and those of the backward, which costs two.
PASSES_OF_A_DIFFERENTIATED_STEP = 3


def kept_by_conv4(filters: int, side: int, *, published: bool) -> int:
    """Bytes that one image's forward keeps for backward.

    Of each block on h x h pixels, pooled to p x p: the convolution's output and the block's own
    (`metalearn.backbones.pooled`); in published blocks also the pooling's input and its indices.
    """
    total, h = NUMBER * 3 * side**2, side
    for _ in range(4):
        p = h // 2
        total += filters * NUMBER * (h**2 + p**2)
        if published:
            total += filters * (NUMBER * h**2 + INDEX * p**2)
        h = p
    return total


def head_step(support: int, features: int) -> int:
    """Bytes that a recorded head step keeps: a head, three arrays of scores, two of losses, l2."""
    return NUMBER * (WAY * features + 3 * WAY * support + 2 * support + 1)


def predicted_bytes(name: str, setting: dict[str, Any], steps: int) -> float | None:
    """Kept for backward at the peak; None where the model has no formula.

    Weights, images and gradients are left out: they are the same for all.
    """
    filters, side, tasks = (int(setting[key]) for key in ("filters", "side", "tasks"))
    support, query = (WAY * int(setting[key]) for key in ("shot", "query"))
    features = filters * (side // 16) ** 2 + 1
    published = "published" in name or "learn2learn" in name
    image = kept_by_conv4(filters, side, published=published)
    together = 1 if published or "one task" in name else tasks
    once = together * (support + query) * image
    if name.startswith("MAML"):
        return None
    if "streamed" in name:  # the pixels alone
        return tasks * (support + query) * NUMBER * 3 * side**2
    if name in ("ITD-BiO, as published", "ANIL, as published"):
        again = image - NUMBER * 3 * side**2  # the pixels are kept once
        recomputed = support * image + (steps - 1) * support * again
        return recomputed + steps * head_step(support, features) + query * image
    unrolled = name.startswith(("ITD", "ANIL"))
    return once + (together * steps * head_step(support, features) if unrolled else 0)


def predicted_passes(name: str, setting: dict[str, Any], steps: int) -> float:
    """Work of the convolutions, in forwards and backwards of all images of the step.

    A forward is a third of a pass: its backward makes two products of the same size.
    """
    shot, query = int(setting["shot"]), int(setting["query"])
    support = shot / (shot + query)
    if name.startswith("MAML"):
        return PASSES_OF_A_DIFFERENTIATED_STEP * steps * support + (1 - support)
    if name in ("ITD-BiO, as published", "ANIL, as published"):
        return steps * support + (1 - support)
    if name == "Algorithm 1, as published":
        return steps * support / 3 + 1
    return 4 / 3 if "streamed" in name else 1.0


def table(setting: dict[str, Any]) -> Table:
    """Predictions against measurements of one setting."""
    made = Table(title=f"{setting['name']}, {setting['tasks']} tasks: predicted and measured")
    for index, column in enumerate(("", "K", "passes", "measured", "kept, MB", "measured ")):
        made.add_column(column, justify="right" if index else "left")
    for row in setting["rows"]:
        name, steps = row["name"], row["steps"] or 0
        kept = predicted_bytes(name, setting, steps)
        made.add_row(
            name,
            str(steps or ""),
            f"{predicted_passes(name, setting, steps):.2f}",
            f"{row['convolution_work']:.2f}",
            "" if kept is None else f"{kept / 1e6:.1f}",
            f"{row['counted']['saved_bytes'] / 1e6:.1f}",
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("result", type=Path, help="what benchmarks.published wrote")
    asked = parser.parse_args()
    try:
        found = json.loads(asked.result.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        sys.exit(f"{asked.result} can't be read ({error}): run python -m benchmarks.published.")
    for setting in found["settings"]:
        Console(width=110).print(table(setting))


if __name__ == "__main__":
    main()
