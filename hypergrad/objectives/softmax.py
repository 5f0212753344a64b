"""L2-regularised softmax regression on features: the few-shot head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from hypergrad.errors import InputError

# n examples, d features, c classes; *batch are the tasks

_INTEGERS = (
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
)


@dataclass(frozen=True, slots=True, eq=False)
class SoftmaxRegression:
    """``g = mean_j cross_entropy(W x_j, y_j) + l2/2 |W|^2`` for each task.

    theta is the features ``(*batch, n, d)``, phi the head ``(*batch, c, d)``: rows are classes, so
    that products run along memory. There is no separate bias; append a constant feature, whose
    weight is then regularised as the others, and g stays l2-strongly convex.

    Attributes:
        labels: ``(*batch, n)`` classes, integers of any dtype, from 0 to c - 1. On the CPU others
            raise an InputError; on a GPU torch itself asserts.
        l2: strength of the regulariser, the modulus of strong convexity; positive.
    """

    labels: Integer[Tensor, "*batch n"]
    l2: float

    def __post_init__(self) -> None:
        labels: object = self.labels  # checked, not believed
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        if kind not in _INTEGERS:
            raise InputError(
                f"SoftmaxRegression got labels of {kind}; give a tensor of integers, "
                "each example's class."
            )
        if not self.l2 > 0:
            raise InputError(
                f"SoftmaxRegression got l2={self.l2}; without a positive l2 the Hessian is "
                "singular (adding a constant to every class changes nothing)."
            )

    def __call__(
        self, theta: Float[Tensor, "*batch n d"], phi: Float[Tensor, "*batch c d"]
    ) -> Float[Tensor, "*batch"]:
        """The values of g."""
        logits = theta @ phi.mT
        # cross entropy of each example: log sum exp minus the logit of its class
        try:
            right = logits.gather(-1, self.labels.long()[..., None])[..., 0]
        except RuntimeError as error:
            self._check_range(logits.shape[-1], error)
            raise
        fit = (logits.logsumexp(dim=-1) - right).mean(dim=-1)
        return fit + self.l2 / 2 * phi.square().sum(dim=(-2, -1))

    def gradient(
        self, theta: Float[Tensor, "*batch n d"], phi: Float[Tensor, "*batch c d"]
    ) -> Float[Tensor, "*batch c d"]:
        """``(P - Y)' X / n + l2 W``."""
        excess = (theta @ phi.mT).softmax(dim=-1)
        labels = self.labels.long()[..., None]
        ones = torch.ones_like(labels, dtype=excess.dtype)
        try:
            excess = excess.scatter_add(-1, labels, -ones)
        except RuntimeError as error:
            self._check_range(excess.shape[-1], error)
            raise
        return excess.mT @ theta / theta.shape[-2] + self.l2 * phi

    def hessian(
        self, theta: Float[Tensor, "*batch n d"], phi: Float[Tensor, "*batch c d"]
    ) -> SoftmaxHessian:
        """The Hessian at a point."""
        probabilities = (theta @ phi.mT).softmax(dim=-1)
        return SoftmaxHessian(features=theta, probabilities=probabilities, l2=self.l2)

    def _check_range(self, classes: int, error: RuntimeError) -> None:
        """Raise InputError if a label is no class: the reason of torch's error."""
        labels = self.labels.long()
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise InputError(
                f"SoftmaxRegression got labels from {low} to {high} for the {classes} classes of "
                f"phi; give labels from 0 to {classes - 1}, and leave out examples without a class."
            ) from error


@dataclass(frozen=True, slots=True, eq=False)
class SoftmaxHessian:
    """``H = l2 I + (1/n) sum_j (diag(p_j) - p_j p_j') (x) x_j x_j'``.

    Attributes:
        features: ``(*batch, n, d)``.
        probabilities: ``(*batch, n, c)``.
        l2: the regulariser's strength.
    """

    features: Float[Tensor, "*batch n d"]
    probabilities: Float[Tensor, "*batch n c"]
    l2: float

    def product(self, vector: Float[Tensor, "*batch q"]) -> Float[Tensor, "*batch q"]:
        """``H v`` in 4 n c d multiplications a task."""
        x, p = self.features, self.probabilities
        head = self._head(vector)
        weighted = p * (x @ head.mT)
        curved = weighted - p * weighted.sum(dim=-1, keepdim=True)
        return (curved.mT @ x / x.shape[-2] + self.l2 * head).reshape(vector.shape)

    def inverse(self, rhs: Float[Tensor, "*batch q"]) -> Float[Tensor, "*batch q"]:
        """``H^{-1} b`` by the Woodbury identity in the (n c)-dimensional Gram space.

        With ``L_j = diag(sqrt p_j) - p_j sqrt(p_j)'`` one has ``L_j L_j' = diag(p_j) - p_j p_j'``
        (since ``|sqrt p_j| = 1``). So ``H = l2 I + A'A/n`` for the map A that takes V to the rows
        ``L_j' V x_j``, and ``H^{-1} = (I - A' (n l2 I + A A')^{-1} A) / l2``.
        """
        x, p = self.features, self.probabilities
        n, c = p.shape[-2:]
        root = p.sqrt()
        factors = torch.diag_embed(root) - p[..., :, None] * root[..., None, :]  # (*batch, n, c, c)
        head = self._head(rhs)
        image = torch.einsum("...jca,...jc->...ja", factors, x @ head.mT)
        gram = torch.einsum("...ij,...ica,...jcb->...iajb", x @ x.mT, factors, factors)
        gram = gram.reshape(*p.shape[:-2], n * c, n * c)
        shift = n * self.l2 * torch.eye(n * c, dtype=gram.dtype, device=gram.device)
        solved, _ = torch.linalg.solve_ex(
            gram + shift, image.reshape(*image.shape[:-2], n * c)[..., None]
        )
        back = torch.einsum("...jca,...ja->...jc", factors, solved.reshape(image.shape))
        return ((head - back.mT @ x) / self.l2).reshape(rhs.shape)

    def diagonal(self) -> Float[Tensor, "*batch q"]:
        """``(1/n) sum_j p_jc (1 - p_jc) x_jd^2 + l2`` for class c and feature d."""
        p, x = self.probabilities, self.features
        spread = (p * (1 - p)).mT @ x.square() / x.shape[-2] + self.l2
        return spread.flatten(start_dim=-2)

    def _head(self, vector: Tensor) -> Tensor:
        classes, size = self.probabilities.shape[-1], self.features.shape[-1]
        return vector.reshape(*vector.shape[:-1], classes, size)
