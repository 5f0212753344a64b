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
from hypergrad.tree import Phi, Tree, check_tree, detach, leaves, like, names, unflatten

Key: TypeAlias = int | str
"""A task's name. An integer of NumPy or a tensor of one integer, as samplers yield them, counts as
that integer."""


@dataclass(frozen=True, kw_only=True)
class WarmStarts(Generic[Phi]):
    """Where each task's lower and adjoint solves ended when it was last visited.

    ::

        starts = WarmStarts(first=phi0)                  # one task's phi, without batch dimension
        for keys in batches:
            phi, v = starts.gather(keys)
            phi = by.minimise(problem.lower, theta, phi).phi
            step = hypergradient(problem, theta, phi, solver=CG(rtol=0, max_steps=N), start=v)
            starts = starts.updated(keys, phi, step.certificate.adjoint.x)
            theta = theta - eta * step.grad

    With :func:`attach`, ``start=v``; with :func:`argmin`, ``Implicit(solver, start=v)``; v comes
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
        first: where a task that was never visited starts: a tree like one task's phi.
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
        self._check(phi, len(keys))
        size = sum(leaf.numel() for leaf in leaves(self.first))
        if v.shape != (len(keys), size):
            raise InputError(
                f"v has shape {tuple(v.shape)}; for {len(keys)} tasks of {size} numbers it must "
                f"have shape {(len(keys), size)}, as certificate.adjoint.x has."
            )
        tasks = leaves(phi)
        adjoints = unflatten(v.detach(), tasks)

        new_phi, new_v = dict(self.phi), dict(self.v)
        for i, key in enumerate(map(_key, keys)):
            new_phi[key] = like(self.first, (_dense(part[i]) for part in tasks))
            new_v[key] = like(self.first, (_dense(part[i]) for part in adjoints))
        return WarmStarts(first=self.first, phi=new_phi, v=new_v)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything as plain tensors, for ``torch.save`` or safetensors.

        ``first``, ``phi`` and ``v`` (followed by ``.name`` for each leaf of a dict), the latter two
        with the tasks as leading dimension; ``index``, the names of leaves and tasks in JSON, as
        bytes: the order of a dict of tensors does not survive every file format.
        """
        keys = list(self.phi)
        labels = _labels(self.first)
        text = json.dumps({"leaves": labels, "tasks": keys}).encode()
        state = {"index": torch.tensor(list(text), dtype=torch.uint8, device="cpu")}
        for label, leaf in zip(_flat("first", labels), leaves(self.first), strict=True):
            state[label] = _dense(leaf)
        for part, known in (("phi", self.phi), ("v", self.v)):
            rows = [leaves(known[key]) for key in keys]
            for i, label in enumerate(_flat(part, labels)):
                parts = [_dense(row[i]) for row in rows]
                one: Tensor = leaves(self.first)[i]
                state[label] = torch.stack(parts) if parts else one.new_empty(0, *one.shape)
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> WarmStarts[Phi]:
        """Undo :meth:`state_dict`, to the bit.

        Raises:
            InputError: the tensors are not what :meth:`state_dict` made.
        """
        try:
            index = json.loads(bytes(state["index"].tolist()))
            labels, keys = index["leaves"], cast(list[Key], index["tasks"])
            first, phi, v = (
                [state[label] for label in _flat(part, labels)] for part in ("first", "phi", "v")
            )
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(
                f"this is no state of WarmStarts ({error!r}); give what state_dict() returned."
            ) from error

        def tree(tensors: Sequence[Tensor]) -> Phi:
            parts = [_dense(tensor) for tensor in tensors]
            return cast(Phi, parts[0] if labels is None else dict(zip(labels, parts, strict=True)))

        return cls(
            first=tree(first),
            phi={key: tree([leaf[i] for leaf in phi]) for i, key in enumerate(keys)},
            v={key: tree([leaf[i] for leaf in v]) for i, key in enumerate(keys)},
        )

    def _check(self, phi: Phi, tasks: int) -> None:
        """Refuse a batch that is not ``tasks`` trees like ``first``."""
        if names(phi, "phi") != names(self.first, "phi"):
            raise InputError("phi must be a tree like first: the same keys in the same order.")
        pairs = zip(names(phi, "phi"), leaves(phi), leaves(self.first), strict=True)
        for label, leaf, one in pairs:
            expected = torch.Size([tasks]) + one.shape
            if leaf.shape != expected:
                raise InputError(
                    f"{label} has shape {tuple(leaf.shape)}; for {tasks} tasks it must have shape "
                    f"{tuple(expected)}."
                )


def _key(key: object) -> Key:
    """The key as a plain string or integer, which finds its task again and is saved as JSON.

    Raises:
        InputError: it is neither.
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


def _labels(tree: Tree) -> list[str] | None:
    """The names of a dict's leaves, in their order."""
    return list(tree) if isinstance(tree, dict) else None


def _flat(part: str, labels: Sequence[str] | None) -> list[str]:
    """The names of one tree's leaves in a flat dict."""
    return [part] if labels is None else [f"{part}.{label}" for label in labels]
