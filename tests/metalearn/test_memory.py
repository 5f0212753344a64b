"""Live bytes against counts by hand."""

import gc

import torch

from metalearn.memory import LiveBytes


def test_what_is_made_is_counted_until_it_is_freed() -> None:
    with LiveBytes() as live:
        a = torch.zeros(1000)  # 4000 bytes
        b = a + 1  # 4000 more
        assert (live.now, live.peak) == (8000, 8000)
        view = b[10:]
        same = a.view(10, 100).t()
        assert live.now == 8000
        del b
        assert live.now == 8000  # its view keeps it
        del view
        assert live.now == 4000
        c = torch.zeros(500, dtype=torch.float64)
        assert (live.now, live.peak) == (8000, 8000)
        del a, c
        assert live.now == 4000
        del same
        assert (live.now, live.peak) == (0, 8000)


def test_what_autograd_saves_is_alive() -> None:
    with LiveBytes() as live:
        x = torch.zeros(1000, requires_grad=True)
        y = x.exp().exp().exp()  # each saves its result: the last is y itself
        assert live.now == 4 * 4000
        (grad,) = torch.autograd.grad(y.sum(), x)
        # the scalar's cotangent is gone; saved results are freed by backward
        assert live.now == 4000 + 4000 + 4000
        del y, grad
    gc.collect()
    assert live.now == 4000


def test_tensors_from_before_count_if_given() -> None:
    weight = torch.zeros(256)
    with LiveBytes() as without:
        weight.mul_(2)
    with LiveBytes([weight, weight[3:]]) as given:
        weight.mul_(2)
    assert (without.peak, given.peak) == (0, 1024)


def test_a_loop_that_keeps_its_iterates_peaks_higher() -> None:
    def peak(steps: int, *, keep: bool) -> int:
        with LiveBytes() as live:
            x = torch.zeros(1000)
            kept = []
            for _ in range(steps):
                x = x + 1
                if keep:
                    kept.append(x)
        found: int = live.peak
        return found

    assert peak(5, keep=False) == peak(50, keep=False) == 8000
    assert peak(5, keep=True) == 20_000
    assert peak(50, keep=True) == 200_000
