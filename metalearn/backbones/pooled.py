"""Batch normalisation, 2x2 max pooling and ReLU as one operation, which pools first.

Shapes: N images, C channels, H, W pixels, p = H // 2, q = W // 2; c tasks that lie next to each
other, and P pieces, each of c tasks.

Normalisation is an affine map x -> s x + t of each channel. Where s >= 0 it is monotone, so that it
commutes with the maximum of a window and can wait until three of four pixels are gone. What is kept
for backward is then the convolution's output and this operation's own, which the next convolution
keeps anyway: 1.25 numbers a pixel. The three operations one by one keep 3: the normalised image and
the pooling's indices, of 8 bytes, in addition. Which pixel was the largest is found once more in
backward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_WINDOW = [2, 2]
_BLOCK = 2**18  # numbers of images that a CPU goes through at a time: a megabyte, for its caches


def normalised_pooled(
    images: Float[Tensor, "N C H W"],
    scale: Float[Tensor, " cC"],
    shift: Float[Tensor, " cC"],
    sizes: Sequence[int],
    eps: float,
    *,
    spend: bool = False,
) -> tuple[Float[Tensor, "N C p q"], Float[Tensor, "P cC"], Float[Tensor, "P cC"]]:
    """ReLU of the pooled, normalised images.

    Args:
        images: P pieces one after another, each ordered by sample, then by task.
        scale: factor of each task's channels after normalisation, none below 0: see `upright`.
        shift: added to each task's channels.
        sizes: images of each piece.
        eps: added to variances.
        spend: nobody else reads the images: a backward that keeps no graph overwrites them by their
            derivative, in place of holding both.

    Returns:
        The images; and means and (biased) variances, which are constants to derivatives.
    """
    found: tuple[Tensor, Tensor, Tensor]
    found = _Pooled.apply(  # type: ignore[no-untyped-call]
        images, scale, shift, tuple(sizes), eps, spend
    )
    return found


def upright(scale: Float[Tensor, " C"]) -> Float[Tensor, " C"]:
    """1 or -1: multiplied to a convolution's filters and to scales, it leaves no scale below 0.

    A channel and its negative are normalised to the same values up to sign, so that together the
    two factors change nothing.
    """
    return torch.where(scale.detach() < 0, -1.0, 1.0).to(scale.dtype)


class _Pooled(torch.autograd.Function):
    # What autograd passes through is untyped: a named seam, as are `ctx` and the derivatives.

    @staticmethod
    def forward(
        images: Tensor,
        scale: Tensor,
        shift: Tensor,
        sizes: tuple[int, ...],
        eps: float,
        spend: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        small = (*images.shape[:2], images.shape[-2] // 2, images.shape[-1] // 2)
        answer = torch.empty(
            small,
            dtype=images.dtype,
            device=images.device,
            memory_format=_layout(images, scale),
        )
        means, variances = [], []
        for x, z in zip(_apart(images, scale, sizes), _apart(answer, scale, sizes), strict=True):
            mean, variance = _statistics(x, scale.dtype)
            factor = scale * (variance + eps).rsqrt()
            offset = shift - mean * factor
            low = F.max_pool2d(x, 2)
            low = low.to(scale.dtype)  # 16 bits once, and not within the operation
            z.copy_(torch.addcmul(_wide(offset), low, _wide(factor)).clamp_min_(0))
            means.append(mean)
            variances.append(variance)
        return answer, torch.stack(means), torch.stack(variances)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        images, scale, shift, ctx.sizes, ctx.eps, ctx.spend = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(images, scale, shift, *output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        images, scale, shift, answer, means, variances = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            again = _one_by_one(images, scale, shift, ctx.sizes, ctx.eps)[0]
            inputs = (images, scale, shift)
            # those of a frozen layer have no derivative, and autograd may not be asked for it
            wanted = [one for one in inputs if one.requires_grad]
            found = iter(torch.autograd.grad(again, wanted, gradient, create_graph=True))
            return (*(next(found) if one.requires_grad else None for one in inputs), *[None] * 3)
        layout = _layout(images, scale)
        # views of another layout's pieces would be copies
        spent = ctx.spend and not _graph_is_kept() and images.is_contiguous(memory_format=layout)
        result = images if spent else torch.empty_like(images, memory_format=layout)
        scales, shifts = torch.zeros_like(scale), torch.zeros_like(scale)
        pieces = [_apart(of, scale, ctx.sizes) for of in (images, answer, gradient)]
        pieces.append(pieces[0] if spent else _apart(result, scale, ctx.sizes))
        for x, z, g, d, mean, variance in zip(*pieces, means, variances, strict=True):
            root = (variance + ctx.eps).rsqrt()
            along, total = _derivative(x, z, g, d, scale, mean, root)
            scales += along
            shifts += total
        return result, scales, shifts, None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[int, int, int]]:
        images, scale, shift, sizes, eps, _ = inputs

        def each(x: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return _one_by_one(x, s, t, sizes, eps)

        return torch.vmap(each, in_dims=in_dims[:3])(images, scale, shift), (0, 0, 0)


def _one_by_one(
    images: Tensor, scale: Tensor, shift: Tensor, sizes: tuple[int, ...], eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as three operations, each with all its derivatives."""
    answer, means, variances = [], [], []
    for x in _apart(images, scale, sizes):
        whole, mean, root = torch.native_batch_norm(x, scale, shift, None, None, True, 0.0, eps)
        low = F.relu(F.max_pool2d(whole, 2))
        answer.append(low.reshape(-1, images.shape[1], *low.shape[2:]))
        means.append(mean.detach())
        variances.append(root.detach() ** -2 - eps)
    return torch.cat(answer), torch.stack(means), torch.stack(variances)


def _statistics(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Means and (biased) variances of the channels.

    Channels-last, torch adds up all pixels of a channel one after another, and in float32 its
    statistics of 25 images of 84 x 84 pixels are off by 5e-5. Here each column of the image is a
    channel of its own first, and what W of them have is joined (Chan, Golub and LeVeque 1979).
    """
    last = not x.is_contiguous()
    n, c, h, w = x.shape
    seen = x.permute(0, 2, 3, 1).reshape(n, h, 1, w * c).permute(0, 3, 1, 2) if last else x
    # With running averages of this dtype, the statistics of 16 bits have it too.
    running = torch.zeros(2, seen.shape[1], dtype=dtype, device=x.device)
    mean, variance = torch.batch_norm_update_stats(seen, running[0], running[1], 1.0)
    if not last:
        return mean, variance
    means = mean.view(w, c)
    mean = means.mean(0)
    return mean, variance.view(w, c).mean(0) + (means - mean).square().mean(0)


def _derivative(
    x: Tensor, z: Tensor, g: Tensor, d: Tensor, scale: Tensor, mean: Tensor, root: Tensor
) -> tuple[Tensor, Tensor]:
    """Set d to the derivative by x of one piece, of which z is the answer and g its derivative.

    d may be x itself. Of u = r (x - mean), r = (variance + eps)^(-1/2), with M pixels of a channel:
    dx = s r (du - mean(du) - u mean(du u)). du is 0 but where a window has its maximum.

    Returns:
        The derivatives by scale and shift.
    """
    count = max(1, _BLOCK * len(x) // x.numel()) if x.device.type == "cpu" else len(x)
    blocks = list(zip(*(of.split(count) for of in (x, z, g, d)), strict=True))
    seen = [_look(image, pooled, gradient, mean) for image, pooled, gradient, _ in blocks]
    total = functools.reduce(torch.add, [one[1] for one in seen])
    along = functools.reduce(torch.add, [one[2] for one in seen]) * root
    size = x.numel() // len(scale)
    slope = -scale * root * root * along / size
    level = -scale * root * total / size - slope * mean
    for (image, pooled, gradient, out), (largest, *_) in zip(blocks, seen, strict=True):
        wide = image.to(scale.dtype)  # 16 bits once, and not in each operation
        high = _to_largest(wide, pooled, gradient, scale * root, largest)
        if wide is image:
            torch.addcmul(_wide(level), image, _wide(slope), out=out).add_(high)
        else:
            out.copy_(torch.addcmul(_wide(level), wide, _wide(slope)).add_(high))
        del wide, high  # before the next block's
    return along, total


def _look(
    image: Tensor, pooled: Tensor, gradient: Tensor, mean: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Index of each window's largest pixel; the sums of du and of du (x - mean).

    An index takes 4 bytes, where torch's own take 8.
    """
    low, largest = torch.ops.aten.max_pool2d_with_indices(image, _WINDOW, _WINDOW)
    live = torch.ops.aten.threshold_backward(gradient, pooled, 0).to(mean.dtype)
    along = (low.to(mean.dtype) - _wide(mean)).mul_(live).sum((0, 2, 3))
    return largest.int(), live.sum((0, 2, 3)), along


def _to_largest(
    image: Tensor, pooled: Tensor, gradient: Tensor, factor: Tensor, largest: Tensor
) -> Tensor:
    """The factor times du at each window's largest pixel, and 0 elsewhere."""
    live = torch.ops.aten.threshold_backward(gradient, pooled, 0).to(factor.dtype)
    high: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
        live.mul_(_wide(factor)), image, _WINDOW, _WINDOW, [0, 0], [1, 1], False, largest.long()
    )
    return high


def _apart(images: Tensor, scale: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """The pieces, in which each channel of each task is a channel."""
    return [x.reshape(-1, len(scale), *x.shape[2:]) for x in images.split(list(sizes))]


# torch's only word on it has no public name: where there is none, a graph may be kept.
_keeps_graph: Callable[[], bool] = getattr(
    torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True
)


def _graph_is_kept() -> bool:
    """True if the running backward leaves the graph for another, or if torch does not say."""
    return _keeps_graph()


def _layout(images: Tensor, scale: Tensor) -> torch.memory_format:
    """Channels-last stays, unless several tasks' channels are to be seen as one image's."""
    if len(scale) == images.shape[1] and not images.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def _wide(channels: Tensor) -> Tensor:
    return channels[:, None, None]
