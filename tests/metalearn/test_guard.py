"""The guard against losses that are no numbers names the upper step and the tasks it had."""

from __future__ import annotations

import pytest
import torch

from metalearn.config import TrainConfig
from metalearn.errors import NotFiniteError
from metalearn.training import Training


def test_the_first_loss_that_is_no_number_is_named() -> None:
    config = TrainConfig(filters=4, tasks_per_step=2, steps=8, device="cpu", threads=1)
    training = Training(config, torch.device("cpu"))
    training.step = 6
    training.losses[:6] = 1.0
    assert training.look(4) == {"loss": 1.0}
    training.losses[4] = torch.nan
    training.losses[5] = torch.inf
    with pytest.raises(NotFiniteError, match=r"nan at upper step 5, training episodes 8 to 9: low"):
        training.look(4)
    training.losses[4] = 1.0
    with pytest.raises(NotFiniteError, match=r"inf at upper step 6, training episodes 10 to 11:"):
        training.look(4)
