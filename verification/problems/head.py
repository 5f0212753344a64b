"""Head: the few-shot learner's lower level, softmax regression on the features of a support set.

theta is the support's features, as the lower level of metalearn sees the backbone: p = n d. Tasks
share the features and differ in the labels, in the queries and in the regulariser.

Shapes: n support and m query images, d features, c classes; phi is (c, d), flattened: q = c d.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Inexact

from verification.problems.base import (
    Batch,
    Device,
    DType,
    FamilyConstants,
    Magnitudes,
    Tensor,
    TensorBilevel,
    norm,
    solve,
    spectral_norm,
    tensor,
)
from verification.problems.newton import damped_newton

# The third derivative of log sum exp along u is the third central moment of u_k, k drawn from the
# softmax; along a unit vector these lie in an interval of length sqrt 2, on which such a moment is
# at most length^3 / (6 sqrt 3) (two points). A symmetric form is largest at equal arguments.
THIRD = math.sqrt(2) ** 3 / (6 * math.sqrt(3))


def probabilities(scores: Inexact[np.ndarray, "*batch n c"]) -> Inexact[np.ndarray, "*batch n c"]:
    """Softmax, of complex scores too."""
    raised = np.exp(scores - scores.real.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


@dataclass(frozen=True)
class Head:
    """Softmax regression on features (the paper's experiments; theory.md, section 8).

    g = mean_i CE(phi x_i, y_i) + l2/2 |phi|^2 over the support, theta = (x_1, ..., x_n),
    f = mean_j CE(phi z_j, w_j) + r/2 |theta|^2 over the queries.

    Attributes:
        y: labels of the support, as indicators.
        Z: features of the queries.
        w: their labels, as indicators.
        l2: the regulariser, positive.
        r: weight of |theta|^2 / 2.
    """

    y: Float64[np.ndarray, "*batch n c"]
    Z: Float64[np.ndarray, "*batch m d"]
    w: Float64[np.ndarray, "*batch m c"]
    l2: Float64[np.ndarray, "*batch"]
    r: Float64[np.ndarray, "*batch"]

    @property
    def batch(self) -> Batch:
        """Leading dimensions."""
        return self.l2.shape

    @property
    def upper_size(self) -> int:
        """Number p = n d of upper variables."""
        return int(self.y.shape[-2] * self.Z.shape[-1])

    @property
    def lower_size(self) -> int:
        """Number q = c d of lower variables."""
        return int(self.y.shape[-1] * self.Z.shape[-1])

    @property
    def terms(self) -> int:
        """Length of the longest inner product; H and J are sums over images of classes' terms."""
        return int(max(self.y.shape[-2], self.w.shape[-2], self.Z.shape[-1]) * self.y.shape[-1])

    def _features(self, theta: Inexact[np.ndarray, " p"]) -> Inexact[np.ndarray, "n d"]:
        return theta.reshape(self.y.shape[-2], -1)

    def _head(self, phi: Inexact[np.ndarray, "*batch q"]) -> Inexact[np.ndarray, "*batch c d"]:
        return phi.reshape(*phi.shape[:-1], self.y.shape[-1], -1)

    def _support(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch n c"]:
        """Probabilities of the support."""
        return probabilities(self._features(theta) @ np.swapaxes(self._head(phi), -1, -2))

    def lower_gradient(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch q"]:
        """(P - Y)' X / n + l2 phi."""
        X, apart = self._features(theta), self._support(theta, phi) - self.y
        fit = np.swapaxes(apart, -1, -2) @ X / len(X)
        return np.asarray(fit.reshape(*phi.shape) + self.l2[..., None] * phi)

    def _curvature(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch n c c"]:
        """Diag(p) - p p' of each image of the support."""
        p = self._support(theta, phi)
        return np.asarray(p[..., None] * np.eye(p.shape[-1]) - p[..., None] * p[..., None, :])

    def hessian(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch q q"]:
        """H = mean_i (diag(p_i) - p_i p_i') x x_i x_i' + l2 I."""
        X, S = self._features(theta), self._curvature(theta, phi)
        fit = np.einsum("...ick,ia,ib->...cakb", S, X, X) / len(X)
        size = self.lower_size
        return np.asarray(
            fit.reshape(*self.batch, size, size) + self.l2[..., None, None] * np.eye(size)
        )

    def cross(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> Inexact[np.ndarray, "*batch p q"]:
        """J: of the gradient's entry (c, b) by feature a of image i, both ways x_i occurs."""
        X, S, head = self._features(theta), self._curvature(theta, phi), self._head(phi)
        apart = self._support(theta, phi) - self.y
        outside = np.einsum("...ic,ab->...iacb", apart, np.eye(X.shape[-1]))
        inside = np.einsum("...ick,...ka,ib->...iacb", S, head, X)
        both = (outside + inside) / len(X)
        return np.asarray(both.reshape(*self.batch, self.upper_size, self.lower_size))

    def upper_gradients(
        self, theta: Inexact[np.ndarray, " p"], phi: Inexact[np.ndarray, "*batch q"]
    ) -> tuple[Inexact[np.ndarray, "*batch p"], Inexact[np.ndarray, "*batch q"]]:
        """Gradients of f in theta (the queries' features are data) and in phi."""
        apart = probabilities(self.Z @ np.swapaxes(self._head(phi), -1, -2)) - self.w
        in_phi = np.swapaxes(apart, -1, -2) @ self.Z / self.Z.shape[-2]
        return np.asarray(self.r[..., None] * theta), np.asarray(in_phi.reshape(*phi.shape))

    def minimiser(self, theta: Float64[np.ndarray, " p"]) -> Float64[np.ndarray, "*batch q"]:
        """phi* by damped Newton from 0."""
        return damped_newton(
            gradient=lambda phi: self.lower_gradient(theta, phi),
            hessian=lambda phi: self.hessian(theta, phi),
            magnitude=lambda phi: self.magnitudes(theta, phi).lower,
            start=np.zeros((*self.batch, self.lower_size)),
            terms=self.terms,
        )

    def magnitudes(
        self, theta: Float64[np.ndarray, " p"], phi: Float64[np.ndarray, "*batch q"]
    ) -> Magnitudes:
        """Norms of the terms; the rounding of scores, |phi| |x|, passes at the softmax's slope."""
        X, size = self._features(theta), norm(phi)

        def fit(rows: Float64[np.ndarray, "... d"]) -> Float64[np.ndarray, "*batch"]:
            longest = np.linalg.norm(rows, axis=-1)
            return np.asarray((longest * (math.sqrt(2) + size[..., None] * longest)).mean(-1))

        return Magnitudes(
            lower=np.asarray(fit(X) + self.l2 * size),
            upper_theta=np.asarray(self.r * np.linalg.norm(theta)),
            upper_phi=fit(self.Z),
        )

    def constants(
        self, theta: Float64[np.ndarray, " p"], *, radius: float = 0.0
    ) -> FamilyConstants:
        """Global but for those of J, which hold on the ball of this radius around phi*.

        |diag(p) - p p'| <= 1/2, |p - y| <= sqrt 2, `THIRD`; sums over images of a_i |dx_i| are at
        most |a| |dX|.
        """
        X, phi = self._features(theta), self.minimiser(theta)
        rows, count = np.linalg.norm(X, axis=-1), len(X)
        head = (norm(phi) + radius)[..., None]
        L = spectral_norm(X) ** 2 / (2 * count) + self.l2
        queries = spectral_norm(self.Z)
        return FamilyConstants(
            strong_convexity=np.asarray(self.l2),
            smoothness=np.asarray(L),
            L12=np.asarray(np.linalg.norm(math.sqrt(2) + head * rows / 2, axis=-1) / count),
            lam12=np.zeros(self.batch),
            lam22=np.asarray(queries**2 / (2 * self.Z.shape[-2])),
            rH=np.full(self.batch, THIRD * spectral_norm(X) ** 2 * rows.max() / count),
            rJ=np.asarray(np.linalg.norm(rows + THIRD * head * rows**2, axis=-1) / count),
            C_f=np.asarray(math.sqrt(2) * np.linalg.norm(self.Z, axis=-1).mean(-1)),
            V=norm(solve(self.hessian(theta, phi), self.upper_gradients(theta, phi)[1])),
        )

    def bilevel(self, dtype: DType | None = None, device: Device = "cpu") -> TensorBilevel:
        """Torch objectives."""
        from hypergrad import Bilevel

        y, w = tensor(self.y, dtype, device), tensor(self.w, dtype, device)
        Z, l2 = tensor(self.Z, dtype, device), tensor(self.l2, dtype, device)
        r = tensor(self.r, dtype, device)
        classes, size = self.y.shape[-1], self.Z.shape[-1]

        def cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
            return (scores.logsumexp(-1) - (scores * labels).sum(-1)).mean(-1)

        def lower(theta: Tensor, phi: Tensor) -> Tensor:
            head = phi.unflatten(-1, (classes, size))
            scores = theta.view(-1, size) @ head.mT
            return cross_entropy(scores, y) + 0.5 * l2 * phi.square().sum(-1)

        def upper(theta: Tensor, phi: Tensor) -> Tensor:
            fit = cross_entropy(Z @ phi.unflatten(-1, (classes, size)).mT, w)
            return fit + 0.5 * r * theta.square().sum(-1)

        return Bilevel(upper=upper, lower=lower)
