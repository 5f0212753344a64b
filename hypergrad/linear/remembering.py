"""A linear map that remembers the product a solver's answer is judged by, so as to take it once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hypergrad.linear.operator import (
    LinearMap,
    Reduction,
    Structured,
    is_reducible,
    is_structured,
)


@dataclass(slots=True)
class _Seen:
    """A vector, its product, and how often each had been written to."""

    vector: Tensor
    image: Tensor
    versions: tuple[int, int]


class Remembering:
    """A map and its last judging product.

    Vectors are known again by identity, not by value: a comparison would make the host wait for the
    device. See `remembering`.

    Attributes:
        known: the map itself.
    """

    def __init__(self, known: LinearMap) -> None:
        self.known = known
        self._seen: _Seen | None = None

    def __call__(self, vector: Tensor) -> Tensor:
        """The product; it is not remembered, since whoever asks for it may write into it."""
        return self.known(vector)

    def judge(self, vector: Tensor) -> Tensor:
        """The product that an answer is judged by, for who leaves both as they are."""
        return self._remember(vector, self.known(vector))

    def begin(self, zero: Tensor) -> None:
        """Take zero for judged: its product is zero, and no product."""
        self._remember(zero, zero)

    def rescale(self, vector: Tensor, answer: Tensor, scale: Tensor) -> None:
        """Take the answer, ``vector * scale``, for judged if the last vector judged was this."""
        if (image := self._image(vector)) is not None:
            self._remember(answer, image * scale)

    def image(self, answer: Tensor) -> tuple[Tensor, int]:
        """``A x`` and how many products it took: none if this very tensor was judged last."""
        image = self._image(answer)
        return (self.judge(answer), 1) if image is None else (image, 0)

    def _image(self, vector: Tensor) -> Tensor | None:
        seen = self._seen
        if seen is None or seen.vector is not vector:
            return None
        unchanged = seen.versions == (seen.vector._version, seen.image._version)
        return seen.image if unchanged else None

    def _remember(self, vector: Tensor, image: Tensor) -> Tensor:
        self._seen = _Seen(vector, image, (vector._version, image._version))
        return image


class _RememberingStructured(Remembering):
    """The same for a map that knows more; see `Structured`. Only its judge's products judge."""

    def __init__(self, known: Structured) -> None:
        super().__init__(known)
        self._structured = known

    def judge(self, vector: Tensor) -> Tensor:
        return self._remember(vector, self._structured.judge(vector))

    def inverse(self, rhs: Tensor) -> Tensor:
        return self._structured.inverse(rhs)

    def diagonal(self) -> Tensor:
        return self._structured.diagonal()

    def reduced(self, vector: Tensor) -> Reduction | None:
        known: object = self.known
        return known.reduced(vector) if is_reducible(known) else None


def remembering(known: LinearMap) -> Remembering:
    """The map with a memory; it knows what a `Structured` map knows."""
    return _RememberingStructured(known) if is_structured(known) else Remembering(known)
