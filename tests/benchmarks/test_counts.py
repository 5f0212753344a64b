"""What is counted, against counts by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.metalearn.measure import Convolutions, SavedBytes


def test_multiplications_of_a_convolution() -> None:
    images = torch.zeros(2, 3, 8, 8)
    filters = torch.zeros(5, 3, 3, 3, requires_grad=True)
    with Convolutions() as done:
        first = F.conv2d(images, filters, padding=1)
        second = F.conv2d(first, torch.zeros(4, 5, 1, 1, requires_grad=True))
        second.sum().backward()
    one = (2 * 5 * 8 * 8) * (3 * 9)  # outputs times the filter of each
    two = (2 * 4 * 8 * 8) * 5
    assert done.calls == {"convolution": 2, "convolution_backward": 2}
    assert done.multiplications["convolution"] == one + two
    # The images want no gradient: one product for the first, two for the second.
    assert done.multiplications["convolution_backward"] == one + 2 * two


def test_multiplications_do_not_depend_on_the_batching() -> None:
    images, filters = torch.zeros(4, 2, 3, 8, 8), torch.zeros(4, 5, 3, 3, 3)
    with Convolutions() as together:
        torch.vmap(F.conv2d)(images, filters)
    with Convolutions() as apart:
        for one, own in zip(images, filters, strict=True):
            F.conv2d(one, own)
    assert (together.calls["convolution"], apart.calls["convolution"]) == (1, 4)
    assert together.multiplications == apart.multiplications


def test_saved_bytes_by_hand() -> None:
    with SavedBytes() as saved:
        x = torch.zeros(1000, requires_grad=True)
        y = x.exp()  # keeps its result: 4000 bytes
        z = y * y  # keeps y, which is kept
        assert (saved.now, saved.peak) == (4000, 4000)
        z.exp().sum().backward()  # keeps 4000 more, and lets go of all
    assert (saved.now, saved.peak) == (0, 8000)


def test_saved_bytes_of_a_second_derivative_are_let_go() -> None:
    def second() -> None:
        x = torch.zeros(1000, requires_grad=True)
        (slope,) = torch.autograd.grad(x.exp().sum(), x, create_graph=True)
        torch.autograd.grad(slope.sum(), x)

    with SavedBytes() as saved:
        second()
        first = saved.peak
        second()
    assert (saved.now, saved.peak) == (0, first)
