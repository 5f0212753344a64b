"""No picture twice: pictures are compared by the SHA-256 of the pixels that are stored.

Pixels, not bytes of the files: a copy saved in another format is the same picture to a learner. A
copy that lost detail on the way (JPEG) is another one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import UInt8

from metalearn.data.published import Published, Split
from metalearn.data.source import Part, Remark
from metalearn.errors import DataError

_NAMED: Final = 20  # pairs that a message names
# Of the 32,460 drawings of Omniglot one is there twice, of 25,000 pictures of CIFAR-100 four are;
# a source that was given twice doubles all.
_PUBLISHED: Final = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    split: Split
    part: Part
    row: int

    @property
    def label(self) -> str:
        return self.part.label(self.row)

    def __str__(self) -> str:
        return f"{self.label} ({self.part.name}, {self.split})"


def _digest(image: UInt8[np.ndarray, "..."]) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def without_copies(part: Part, remarks: list[Remark]) -> Part:
    """A class without the pictures that are in it already; what is dropped is remarked.

    Raises:
        DataError: the class can't be read.
    """
    first: dict[bytes, int] = {}
    for row, image in enumerate(part.load()):
        before = first.setdefault(_digest(image), row)
        if before != row:
            remarks.append(Remark(part.label(row), False, f"the same as {part.label(before)}"))
    kept = list(first.values())
    files = tuple(part.label(row) for row in kept)
    return Part(part.name, len(kept), lambda: part.load()[kept], files)


class Copies:
    """The pictures that came twice."""

    def __init__(self) -> None:
        self._met: dict[bytes, _Place] = {}
        self._pairs: list[tuple[_Place, _Place]] = []

    def look(
        self, split: Split, part: Part, images: UInt8[np.ndarray, "n channels height width"]
    ) -> None:
        """Compare the stored pictures of a class with each other and with all before."""
        for row, image in enumerate(images):
            here = _Place(split, part, row)
            before = self._met.setdefault(_digest(image), here)
            if before is not here:
                self._pairs.append((before, here))

    def judge(self, known: Published) -> list[Remark]:
        """Raise if own pictures come twice. Those of a published data set are remarked.

        Raises:
            DataError: a picture comes twice; or more than 1 % of a published data set does.
        """
        most = 0 if known.classes is None else _PUBLISHED * len(self._met)
        if len(self._pairs) > most:
            raise DataError(self._refusal(known))
        return [
            Remark(again.label, True, f"the same picture as {first}")
            for first, again in self._pairs
        ]

    def _refusal(self, known: Published) -> str:
        # what is worst comes first: two splits, then two labels
        pairs = sorted(
            self._pairs, key=lambda p: (p[0].split == p[1].split, p[0].part.name == p[1].part.name)
        )
        named = [f"  {first} = {again}" for first, again in pairs[:_NAMED]]
        if len(pairs) > _NAMED:
            named.append(f"  and {len(pairs) - _NAMED} more")
        if known.classes is not None:
            remedy = f"Of {known.name} at most 1 % is: give each source once."
        elif pairs[0][0].part is pairs[0][1].part:
            remedy = "Leave one of each, or keep the first of each with --drop-duplicates."
        else:
            remedy = (
                "In two splits a picture leaks from training into testing, and of two labels one "
                "is wrong: leave the right one of each."
            )
        return "\n".join([f"pictures that are there twice: {len(pairs)}", *named, remedy])
