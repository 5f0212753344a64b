"""Parts of a backbone's pass, against the rate of a large matrix product.

    python -m benchmarks.backbone_profile --out benchmarks/results/backbone_profile.json

The convolutions of a Conv4 one by one, its normalisation with pooling and ReLU, and its whole
forward and backward take turns with one matrix product, in float32 and in bfloat16 (autocast for
the whole pass). Rates are operations of convolutions a second over those of the matrix product in
the same precision; times are over the whole pass in float32.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from benchmarks.fewshot import SETTINGS, Setting, backbone_pass
from benchmarks.provenance import provenance, write
from benchmarks.timing import interleaved, keep_pages
from metalearn.backbones.pooled import normalised_pooled

KINDS: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MATRIX: Final = 512  # rows and columns of the product that rates are over
PASS: Final = "whole pass"
PRODUCT: Final = "matrix product"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of work.

    Attributes:
        name: its name in tables.
        kind: its precision.
        run: does it once.
        work: floating-point operations of its convolutions or matrix product; 0 if it has none.
    """

    name: str
    kind: str
    run: Callable[[], object]
    work: int


def parts(setting: Setting) -> Iterator[Part]:
    """The timed parts, for each precision."""
    filters = setting.filters
    assert filters is not None  # a Conv4
    count = setting.tasks * setting.images
    for kind, dtype in KINDS.items():
        left, right = (torch.randn(MATRIX, MATRIX).to(dtype) for _ in range(2))
        yield Part(PRODUCT, kind, lambda a=left, b=right: a @ b, 2 * MATRIX**3)  # type: ignore[misc]
        whole, side, channels = 0, setting.side, 3
        for block in range(4):
            images = _channels_last(count, channels, side, dtype)
            forward, backward, work = _convolution(images, filters)
            needed = 1 + (channels != 3)  # the images themselves have no gradient
            yield Part(f"convolution {block + 1}, forward", kind, forward, work)
            yield Part(f"convolution {block + 1}, backward", kind, backward, needed * work)
            answers = _channels_last(count, filters, side, dtype).requires_grad_()
            name = f"normalisation, pooling and ReLU {block + 1}"
            yield Part(name, kind, _pooling(answers), 0)
            whole += (1 + needed) * work
            side, channels = side // 2, filters
        _, alone = backbone_pass(setting)
        yield Part(PASS, kind, _cast(alone) if kind == "bfloat16" else alone, whole)


def _channels_last(count: int, channels: int, side: int, dtype: torch.dtype) -> Tensor:
    drawn = torch.randn(count, channels, side, side).to(dtype)
    return drawn.contiguous(memory_format=torch.channels_last)


def _convolution(
    images: Tensor, filters: int
) -> tuple[Callable[[], object], Callable[[], object], int]:
    """Forward, backward and the operations of one forward."""
    channels = images.shape[1]
    weight = _channels_last(filters, channels, 3, images.dtype)
    cotangent = torch.randn_like(torch.nn.functional.conv2d(images, weight, padding=1))
    pairs = [1, 1]
    mask = [channels != 3, True, False]

    def forward() -> Tensor:
        return torch.nn.functional.conv2d(images, weight, padding=1)

    def backward() -> object:
        return torch.ops.aten.convolution_backward(
            cotangent, images, weight, None, pairs, pairs, pairs, False, [0, 0], 1, mask
        )

    return forward, backward, 2 * cotangent.numel() * weight[0].numel()


def _pooling(images: Tensor) -> Callable[[], object]:
    """Forward and backward."""
    scale, shift = (torch.ones(images.shape[1], requires_grad=True) for _ in range(2))
    half = len(images) // 2

    def run() -> object:
        answer, *_ = normalised_pooled(images, scale, shift, (half, len(images) - half), 1e-5)
        return torch.autograd.grad(answer.sum(), (images, scale, shift))

    return run


def _cast(run: Callable[[], None]) -> Callable[[], None]:
    def under_autocast() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            run()

    return under_autocast


def profile(setting: Setting, *, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Times over the pass in float32, and rates over a product's, by precision and part."""
    every = list(parts(setting))
    for part in every:
        part.run()
    taken = interleaved([part.run for part in every], rounds=rounds)
    seconds = {
        (part.kind, part.name): statistics.median(times)
        for part, times in zip(every, taken, strict=True)
    }
    found: dict[str, dict[str, dict[str, float]]] = {kind: {} for kind in KINDS}
    for part in every:
        own = seconds[part.kind, part.name]
        rate = 2 * MATRIX**3 / seconds[part.kind, PRODUCT]
        figures = {"time": own / seconds["float32", PASS], "gflops": part.work / own / 1e9}
        found[part.kind][part.name] = figures | {"rate": part.work / own / rate}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where the result file goes")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_pages()
    origin = provenance()
    setting = dataclasses.replace(SETTINGS["cifar-conv4-64"], tasks=1)
    found = profile(setting, rounds=asked.rounds)
    write(asked.out, {"provenance": origin, "setting": dataclasses.asdict(setting), "parts": found})
    for kind, by_name in found.items():
        for name, one in by_name.items():
            print(f"{kind:9} {name:36} {one['time']:6.3f} of a pass, rate {one['rate']:.2f}")


if __name__ == "__main__":
    main()
