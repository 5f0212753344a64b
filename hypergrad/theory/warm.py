"""Warm starts of phi and v across upper steps: a value that the caller owns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Generic, SupportsIndex, TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.tree import (
    Phi,
    check_tree,
    detach,
    leaves,
    like,
    names,
    structure_text,
    tree_from_text,
    unflatten,
)

Key: TypeAlias = int | str
"""A task's name. An integer of NumPy or a tensor of one integer, as samplers yield them, counts as
that integer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class WarmStarts(Generic[Phi]):
    """Starts of each task: the ends of its lower and adjoint solves when it was last visited.

    ::

        starts = WarmStarts(first=phi0)                  # one task's phi, without batch dimension
        for keys in batches:
            phi, v = starts.gather(keys)
            phi = by.minimise(problem.lower, theta, phi).phi
            step = hypergradient(problem, theta, phi, solver=CG(rtol=0, max_steps=N), start=v)
            starts = starts.updated(keys, phi, step.certificate.adjoint.x)
            theta = theta - eta * step.grad

    For :func:`attach` it is ``start=v``, for :func:`argmin` ``Implicit(solver, start=v)``, with v
    from the certificate that ``watch`` receives. There v solves for the cotangent that backward
    brings, which the mean over B tasks divides by B: keep B fixed, or multiply by it.

    Why: from a cold start, K gradient and N CG steps err by an amount that does not shrink as
    theta converges, so that theta converges to a wrong point unless K, N grow. Warm starts of both
    remove the floor with K, N constant. The conditions below are derived in this project's
    theory note, section 3, and are not the paper's constants; notation as there (q_a the
    contraction of a gradient step, tau of CG's, ``s = L12/mu``, A = c1 of Theorem A, l_v the
    Lipschitz constant of v*).

    - Theorem 2, all tasks at every step, ``eta <= 1/L_F``: with
      ``K >= ln max(9, 18 eta A s) / -ln q_a`` and
      ``N >= ln(2 sqrt(kappa) max(4, 8 eta L12 l_v)) / -ln tau``,
      ``mean_t |grad F|^2 <= (8/3) [(F_0 - F_T)/eta + z_0^2] / T``: no floor.
    - Theorem 2s, tasks sampled with probability pi each, own memory however stale:
      ``r <= min(1/2, pi / (16 (A s + L12 l_v) eta))``, ``K >= ln((2 + r)/r) / -ln q_a``,
      ``N >= ln(2 sqrt(kappa)/r) / -ln tau``, which depend on neither accuracy nor T; what
      remains is the noise of sampling.

    They are sufficient: smaller K, N often do (K = 5, N = 1 at kappa = 20, see the tests), only
    without a proof.

    Attributes:
        first: start of a task that was never visited: a tree like one task's phi.
        phi: for each task visited, its last phi.
        v: for each task visited, its last v, a tree like phi.
    """

    first: Phi
    phi: Mapping[Key, Phi] = field(default_factory=dict)
    v: Mapping[Key, Phi] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_tree(self.first, "first")
        for name in ("phi", "v"):
            known = {_key(key): tree for key, tree in getattr(self, name).items()}
            object.__setattr__(self, name, known)
        if self.phi.keys() != self.v.keys():
            raise InputError("WarmStarts got phi and v of different tasks; give both of each.")

    def gather(self, keys: Sequence[str | SupportsIndex]) -> tuple[Phi, Phi]:
        """Starts of these tasks: phi and v, with one leading dimension of ``len(keys)``.

        A task that was never visited starts from ``first`` and ``v = 0``.

        Raises:
            InputError: no key.
        """
        if not len(keys):  # an array of keys has no truth value
            raise InputError("gather got no key; name at least one task.")
        named = [_key(key) for key in keys]
        first = leaves(detach(self.first))
        zero = [torch.zeros_like(leaf) for leaf in first]
        phi = [leaves(self.phi[key]) if key in self.phi else first for key in named]
        v = [leaves(self.v[key]) if key in self.v else zero for key in named]
        return (
            like(self.first, (torch.stack(parts) for parts in zip(*phi, strict=True))),
            like(self.first, (torch.stack(parts) for parts in zip(*v, strict=True))),
        )

    def updated(
        self, keys: Sequence[str | SupportsIndex], phi: Phi, v: Float[Tensor, "tasks n"]
    ) -> WarmStarts[Phi]:
        """The same with these tasks' new state; this one is left as it was.

        A key that occurs twice in the batch keeps the later entry. Copies what it keeps; costs
        one shallow copy of the maps.

        Args:
            keys: the tasks, in the order of the batch.
            phi: their lower solutions, one leading dimension.
            v: their adjoint solutions, as ``certificate.adjoint.x`` has them.

        Raises:
            InputError: a shape or a key of the tree does not fit.
        """
        tasks = self._in_order(phi, phi, len(keys))
        size = sum(leaf.numel() for leaf in leaves(self.first))
        if v.shape != (len(keys), size):
            raise InputError(
                f"v has shape {tuple(v.shape)}; for {len(keys)} tasks of {size} numbers it must "
                f"have shape {(len(keys), size)}, as certificate.adjoint.x has."
            )
        # v is laid out as phi is, whose dicts may have another order than those of first
        adjoints = self._in_order(like(phi, unflatten(v.detach(), leaves(phi))), phi, len(keys))

        new_phi, new_v = dict(self.phi), dict(self.v)
        for i, key in enumerate(map(_key, keys)):
            new_phi[key] = like(self.first, (_dense(part[i]) for part in tasks))
            new_v[key] = like(self.first, (_dense(part[i]) for part in adjoints))
        return WarmStarts(first=self.first, phi=new_phi, v=new_v)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything as plain tensors, for ``torch.save`` or safetensors.

        ``first``, ``phi`` and ``v`` (followed by ``['name']`` and the like for the leaves of a
        tree), the latter two with the tasks as leading dimension; ``index``, the structure of the
        tree and the names of leaves and tasks in JSON, as bytes: the order of a dict of tensors
        does not survive every file format.

        Raises:
            InputError: a tree whose containers can't be written down.
        """
        keys, labels = list(self.phi), names(self.first, "")
        known = {"tree": structure_text(self.first), "leaves": labels, "tasks": keys}
        text = json.dumps(known).encode()
        state = {"index": torch.tensor(list(text), dtype=torch.uint8, device="cpu")}
        for label, leaf in zip(labels, leaves(self.first), strict=True):
            state["first" + label] = _dense(leaf)
        for part, rows in (("phi", self.phi), ("v", self.v)):
            each = [leaves(rows[key]) for key in keys]
            for i, (label, one) in enumerate(zip(labels, leaves(self.first), strict=True)):
                parts = [_dense(row[i]) for row in each]
                state[part + label] = torch.stack(parts) if parts else one.new_empty(0, *one.shape)
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> WarmStarts[Phi]:
        """Undo :meth:`state_dict`, to the bit.

        Raises:
            InputError: the tensors are not what :meth:`state_dict` made.
        """
        try:
            index = json.loads(bytes(state["index"].tolist()))
            labels, keys = cast(list[str], index["leaves"]), cast(list[Key], index["tasks"])
            first, phi, v = (
                [state[part + label] for label in labels] for part in ("first", "phi", "v")
            )

            def tree(tensors: Sequence[Tensor]) -> Phi:
                return cast(Phi, tree_from_text(index["tree"], [_dense(part) for part in tensors]))

            tree(first)
        except (KeyError, ValueError, TypeError, NotImplementedError) as error:
            raise InputError(
                f"this is no state of WarmStarts ({error!r}); give what state_dict() returned."
            ) from error

        return cls(
            first=tree(first),
            phi={key: tree([leaf[i] for leaf in phi]) for i, key in enumerate(keys)},
            v={key: tree([leaf[i] for leaf in v]) for i, key in enumerate(keys)},
        )

    def _in_order(self, tree: Phi, phi: Phi, tasks: int) -> list[Tensor]:
        """The leaves of a batch of trees like ``first``, in its order; phi's are the names.

        Raises:
            InputError: the tree is not like ``tasks`` trees like ``first``.
        """
        given = dict(zip(names(phi, "phi"), leaves(tree), strict=True))
        wanted = dict(zip(names(self.first, "phi"), leaves(self.first), strict=True))
        if given.keys() != wanted.keys():
            raise InputError(
                f"phi has the leaves {', '.join(given)}; it must be a tree like first, with the "
                f"leaves {', '.join(wanted)}."
            )
        for label, one in wanted.items():
            expected = torch.Size([tasks]) + one.shape
            if given[label].shape != expected:
                raise InputError(
                    f"{label} has shape {tuple(given[label].shape)}; for {tasks} tasks it must "
                    f"have shape {tuple(expected)}."
                )
        return [given[label] for label in wanted]


def _key(key: object) -> Key:
    """The key as a plain string or integer, which finds its task again and is saved as JSON.

    Raises:
        InputError: the key is neither.
    """
    given = key.item() if isinstance(key, Tensor) and key.ndim == 0 else key
    if not isinstance(given, bool):
        if isinstance(given, str):
            return str(given)
        if isinstance(given, Integral):
            return int(given)
    raise InputError(
        f"WarmStarts got the key {key!r}, a {type(key).__name__}; name tasks by integers or "
        "strings."
    )


def _dense(leaf: Tensor) -> Tensor:
    """A contiguous copy, cut off from any graph: file formats know no strides."""
    return leaf.detach().clone(memory_format=torch.contiguous_format)
