"""Support statistics make an answer depend on the support alone, and leave the model as it was."""

from __future__ import annotations

import torch

from metalearn.learner.statistics import normalised_by, statistics
from tests.metalearn.learner.subjects import pictures, trained


def test_a_query_is_normalised_by_its_support_alone() -> None:
    model = trained(normalisation="transductive").model
    x = torch.from_numpy(pictures(12)[0]).permute(0, 3, 1, 2) / 255
    support, query = x[:6], x[6:]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        together = model.features(query[None], 6)[0]
        alone = model.features(query[:1, None], 1)[0]
        with normalised_by(model, statistics(model, support)):
            by_support = model.features(query[None], 6)[0]
            again = model.features(query[:1, None], 1)[0]
    # float32, in batches of two sizes: rounding of 6e-8 in sums of some hundred terms
    torch.testing.assert_close(again[0], by_support[0], rtol=0, atol=1e-4)
    assert float((alone[0] - together[0]).abs().max()) > 1e-2  # what it would be otherwise
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.no_grad():
        assert torch.equal(model.features(query[None], 6)[0], together)


def test_the_support_by_its_own_statistics_is_the_support() -> None:
    model = trained(normalisation="transductive").model
    x = torch.from_numpy(pictures(12)[0]).permute(0, 3, 1, 2) / 255
    with torch.no_grad(), normalised_by(model, statistics(model, x)):
        stored = model.features(x[None], 12)[0]
    with torch.no_grad():
        own = model.features(x[None], 12)[0]
    # stored variances are unbiased: in the last block, of 12 images of 3 x 3 pixels, they are
    # 108 / 107 of the batch's own, half of which is in its root, in each of four blocks
    torch.testing.assert_close(stored, own, rtol=0.05, atol=0.05)
