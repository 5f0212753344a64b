"""The README's commands on own pictures, run from an empty folder as a newcomer would.

    python -m benchmarks.first_use --out benchmarks/results/first_use.json

Thirty classes of twenty drawings are made, and five other classes of which three pictures are
labelled. Then the commands under *metalearn classify* in the README run as they stand. Recorded are
what each took, what each said at its end, and how many of the new pictures were answered right.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.provenance import provenance, write

ROOT: Final = Path(__file__).parents[1]
CLASSES, EACH, NEW, LABELLED = 30, 20, 5, 3
_SIDE: Final = 96


def commands() -> list[str]:
    """The commands of the README's section, in its order, without their remarks."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## `metalearn classify`")[2]
    block = section.partition("```sh\n")[2].partition("```")[0]
    return [line.partition("#")[0].strip() for line in block.splitlines()]


def draw(folder: Path, classes: int, each: int, seed: int) -> None:
    """Drawings in a folder for each class: its strokes, shaken, by another pen on other paper."""
    random = np.random.default_rng(seed)
    for label in range(classes):
        strokes = [
            random.uniform(12, 84, (random.integers(2, 4), 2)) for _ in range(random.integers(2, 5))
        ]
        place = folder / f"class {label:02d}"
        place.mkdir(parents=True)
        for number in range(each):
            _drawing(strokes, random).save(place / f"{number:02d}.png")


def _drawing(strokes: list[np.ndarray], random: np.random.Generator) -> Image.Image:
    paper, pen = (tuple(map(int, random.integers(*ends, 3))) for ends in ((215, 256), (0, 90)))
    picture = Image.new("RGB", (_SIDE, _SIDE), paper)
    turn, size, middle = random.normal(0, 0.12), random.uniform(0.85, 1.1), _SIDE / 2
    matrix = size * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    for stroke in strokes:
        points = (stroke - middle) @ matrix.T + middle + random.normal(0, 3, 2)
        points = points + random.normal(0, 2, stroke.shape)
        line = [(float(x), float(y)) for x, y in points]
        width = int(random.integers(3, 7))
        ImageDraw.Draw(picture).line(line, fill=pen, width=width, joint="curve")
    return picture


def lay_out(folder: Path, *, classes: int, each: int, new: int, labelled: int) -> None:
    """PICTURES to train with, and of other classes SUPPORT and NEW."""
    draw(folder / "PICTURES", classes, each, 0)
    draw(folder / "SUPPORT", new, each, 1)
    (folder / "NEW").mkdir()
    for place in sorted((folder / "SUPPORT").iterdir()):
        for file in sorted(place.iterdir())[labelled:]:
            file.rename(folder / "NEW" / f"{place.name}, {file.name}")


def run(command: str, folder: Path) -> dict[str, Any]:
    """Run one command in the folder; its seconds, the processors', and its last lines.

    Raises:
        RuntimeError: the command fails.
    """
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    words = [sys.executable, "-m", *command.split()]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    here = os.environ | {"METALEARN_CACHE": str(folder / "cache"), "PYTHONPATH": paths}
    done = subprocess.run(words, cwd=folder, env=here, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stderr}")
    return {
        "command": command,
        "seconds": seconds,
        "processor_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "said": [line.replace(str(folder), "") for line in done.stdout.splitlines()[-3:]],
    }


def answers(file: Path) -> tuple[int, int]:
    """Numbers of right answers (the class is in the picture's name) and of pictures."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    right = sum(row["answer"] == Path(row["file"]).name.partition(",")[0] for row in rows)
    return right, len(rows)


def study(
    more: tuple[str, ...] = (),
    *,
    classes: int = CLASSES,
    each: int = EACH,
    new: int = NEW,
    labelled: int = LABELLED,
) -> dict[str, Any]:
    """Draw, run the README's commands, and count right answers.

    Args:
        more: options added to the training command, for a shorter one.
        classes: number of classes to train, validate and test with.
        each: pictures of each class.
        new: number of new classes.
        labelled: labelled pictures of each of these.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(folder, classes=classes, each=each, new=new, labelled=labelled)
        steps = []
        for command in commands():
            options = more if re.match("metalearn train ", command) else ()
            steps.append(run(" ".join((command, *options)), folder))
        right, asked = answers(folder / "answers" / "answers.csv")
    return {"commands": steps, "right": right, "asked": asked}


def main() -> None:
    """Run the study and write its record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    record = provenance()
    record |= study()
    write(out, record)


if __name__ == "__main__":
    main()
