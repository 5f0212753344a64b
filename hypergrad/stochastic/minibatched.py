"""A finite sum over examples as an objective: whole, or batch by batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Generic, TypeAlias, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.objective import Objective
from hypergrad.settings import check_max_steps
from hypergrad.tree import Phi, Theta, Tree, leaves, like

Loss: TypeAlias = Callable[[Theta, Phi, Tree], Tensor]
"""``(theta, phi, examples) -> ()``: the mean over these examples, with any regulariser."""

Fetch: TypeAlias = Callable[[Tensor], Tree]
"""``(size,) indices -> examples``: what a data set gives for these examples, collated."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Minibatched(Generic[Theta, Phi]):
    """``g(theta, phi) = mean_j loss_j(theta, phi)`` over m examples, one problem (no tasks).

    The examples are shuffled once, by ``seed``, into blocks of ``size``. Called as an ordinary
    objective it is the whole sum, one block after the other. :meth:`batch` is the objective of one
    block: each of them once in an epoch, in an order that is drawn anew for each epoch and depends
    on ``seed`` and ``key`` only, so that a run can be resumed and is the same on every rank. The
    mean over the blocks is the whole sum: a short last block is weighted by its share.

    Attributes:
        loss: the mean over the examples it is given.
        data: a tree of tensors whose first dimension counts the examples; or a function from
            indices to such a tree, for data that stay elsewhere.
        size: examples of a block.
        examples: m; needed where ``data`` is a function.
        seed: seed of the shuffling.
    """

    loss: Loss[Theta, Phi]
    data: Tree | Fetch
    size: int
    examples: int = 0
    seed: int = 0
    _order: Int[Tensor, " m"] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not callable(self.data):
            lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves(self.data)}
            if len(lengths) != 1 or (self.examples and lengths != {self.examples}):
                raise InputError(
                    f"Minibatched got data whose tensors begin with {sorted(lengths)} examples"
                    f"{f' for examples={self.examples}' if self.examples else ''}; the first "
                    "dimension of each must count the same examples."
                )
            object.__setattr__(self, "examples", lengths.pop())
        if self.examples < 1:
            raise InputError(
                f"Minibatched got {self.examples} examples; give at least one, and their number as "
                "examples= where data is a function."
            )
        check_max_steps("Minibatched", self.size, least=1, name="size")
        if not 1 <= self.size <= self.examples:
            raise InputError(
                f"Minibatched got size={self.size}; a block must have between 1 and all "
                f"{self.examples} examples."
            )
        object.__setattr__(self, "_order", _permutation(self.seed, 0, self.examples))

    @property
    def blocks(self) -> int:
        """The number of blocks, ``ceil(m / size)``."""
        return -(-self.examples // self.size)

    def __call__(self, theta: Theta, phi: Phi) -> Float[Tensor, ""]:
        """The whole sum."""
        return torch.stack([self.block(i)(theta, phi) for i in range(self.blocks)]).mean()

    def batch(self, key: int) -> Block[Theta, Phi]:
        """The block that is the turn of ``key``, counted from 0 over all epochs.

        Raises:
            InputError: a negative key.
        """
        if key < 0:
            raise InputError(f"batch got key={key}; count from 0.")
        epoch, place = divmod(key, self.blocks)
        return self.block(int(_permutation(self.seed, 1 + epoch, self.blocks)[place]))

    def drawn(self, key: int) -> Block[Theta, Phi]:
        """The block drawn for ``key``, each as likely as any other whatever other keys drew.

        A product of several batches is unbiased with these. Turns of one epoch are not independent:
        a block that was had does not come again.

        Raises:
            InputError: a negative key.
        """
        if key < 0:
            raise InputError(f"drawn got key={key}; count from 0.")
        return self.block(random.Random(f"{self.seed}/drawn/{key}").randrange(self.blocks))

    def turns(self, step: int, count: int) -> Iterator[Block[Theta, Phi]]:
        """The `count` batches of one step, each made when it is asked for."""
        return (self.batch(step * count + i) for i in range(count))

    def block(self, index: int) -> Block[Theta, Phi]:
        """The objective of one block, times what makes the mean over all blocks the whole sum.

        Raises:
            InputError: there is no such block, or the data don't give one row for each index.
        """
        if not 0 <= index < self.blocks:
            raise InputError(f"block got index={index}; there are {self.blocks}, counted from 0.")
        indices = self._order[index * self.size : (index + 1) * self.size]
        weight = len(indices) * self.blocks / self.examples
        return Block(self.loss, self._examples(indices), weight, index)

    def _examples(self, indices: Tensor) -> Tree:
        if callable(self.data):
            fetched = cast(Fetch, self.data)(indices)
            # a block is weighted by its share of all examples: one that was left out would count
            lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves(fetched)}
            if lengths != {len(indices)}:
                raise InputError(
                    f"Minibatched asked its data for {len(indices)} examples, and got tensors that "
                    f"begin with {sorted(lengths)}: return one row of each tensor for each index, "
                    "and leave unusable examples out of the numbers that are given as examples=."
                )
            return fetched
        return like(self.data, (leaf[indices.to(leaf.device)] for leaf in leaves(self.data)))


@lru_cache(maxsize=8)  # every batch of an epoch asks for its order
def _permutation(seed: int, stream: int, count: int) -> Tensor:
    """The numbers below ``count`` in an order drawn by seed and stream; not to be written into."""
    # torch's generator on the CPU uses 32 bits of its seed: both numbers are mixed into them
    mixed = random.Random(f"{seed}/{stream}").getrandbits(32)
    generator = torch.Generator().manual_seed(mixed)
    return torch.randperm(count, generator=generator)


@dataclass(frozen=True, slots=True, eq=False)
class Block(Generic[Theta, Phi]):
    """The objective of some of the examples.

    Attributes:
        loss: the mean over the examples it is given.
        examples: the tree of them.
        weight: factor of the mean.
        index: number of the block.
    """

    loss: Loss[Theta, Phi]
    examples: Tree
    weight: float
    index: int

    @property
    def block_name(self) -> str:
        """The block's name in messages."""
        return f"block {self.index}"

    def __call__(self, theta: Theta, phi: Phi) -> Float[Tensor, ""]:
        """The weighted mean over the block.

        Raises:
            InputError: the loss has more than one value.
        """
        value = self.loss(theta, phi, self.examples)
        if value.ndim:
            raise InputError(
                f"the loss of a Minibatched objective returned shape {tuple(value.shape)}; return "
                "one value, the mean over the examples."
            )
        return value * self.weight


def sampled(objective: Objective[Theta, Phi], role: str) -> Minibatched[Theta, Phi]:
    """The objective, which must have batches.

    Raises:
        InputError: naming the role, and what was given.
    """
    if not isinstance(objective, Minibatched):
        raise InputError(
            f"the {role} objective is a {type(objective).__name__}, which has no batches; give "
            "Minibatched(loss=..., data=..., size=...), with size = all examples if need be."
        )
    return objective
