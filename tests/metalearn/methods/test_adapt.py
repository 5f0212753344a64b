"""What a method learns from a support alone answers queries as `predict` does."""

from __future__ import annotations

import torch

from metalearn.methods import Method
from tests.metalearn.methods.subjects import episodes, model
from tests.metalearn.methods.test_accumulate import METHODS, every_method

# Two orders of summation, in float64: a few hundred roundings of 1e-16, through 30 lower steps.
ROUNDING = 1e-10


@every_method
def test_adapting_and_answering_is_predicting(method: Method) -> None:
    subject, batch = model(method).eval(), episodes(tasks=2)
    expected = method.predict(subject, batch)
    shot = batch.support_labels.shape[1]
    for task, scores in enumerate(expected):
        images, labels = batch.images[task], batch.support_labels[task]
        adapted = method.adapt(subject, images[:shot], labels, way=batch.way)
        found = method.answer(subject, adapted.values, images[shot:])
        # an answer is its probabilities: scores of distances are without a term of all classes
        torch.testing.assert_close(found.softmax(-1), scores.softmax(-1), rtol=0, atol=ROUNDING)
        assert not any(value.requires_grad for value in (found, *adapted.values.values()))


@every_method
def test_shots_may_be_unequal_and_in_any_order(method: Method) -> None:
    """Twice the whole support is the support: each objective is a mean over images, or of them."""
    subject, batch = model(method).eval(), episodes(tasks=1)
    shot = batch.support_labels.shape[1]
    images, labels = batch.images[0, :shot], batch.support_labels[0]
    one = method.adapt(subject, images[1:], labels[1:], way=batch.way).values
    order = torch.randperm(shot - 1, generator=torch.Generator().manual_seed(0))
    other = method.adapt(subject, images[1:][order], labels[1:][order], way=batch.way).values
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=ROUNDING)


def test_every_method_has_both() -> None:
    assert all(isinstance(method, Method) for method in METHODS.values())
