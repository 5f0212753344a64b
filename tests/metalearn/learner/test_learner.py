"""A learner learns, answers, keeps what it learned, and says when it can't."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch

from hypergrad import Detached, Newton
from metalearn import Learner, load
from metalearn.errors import ConfigError, LearnerError, RunError, UnsolvedWarning
from metalearn.learner.trained import Trained
from metalearn.methods.heads import LinearHeads
from metalearn.methods.lower import Lower
from metalearn.runs import card
from tests.metalearn.learner.subjects import learner, pictures, trained

# float32 features of some hundred products, each rounded to 6e-8, in sums that a batch of another
# size takes in another order; the probabilities of a head of norm below 10 move no more.
ROUNDING = 1e-4
X, Y = pictures(9)
NEW, TRUE = pictures(12, seed=1)


@pytest.mark.parametrize(
    ("method", "normalisation"),
    [("memory-reduced-exact", "stored"), ("r2d2", "group"), ("protonet", "stored")],
)
def test_it_answers_one_picture_as_in_a_batch(method: str, normalisation: str) -> None:
    # the untrained features are small: r2d2's own regulariser, made for others, would drown them
    l2 = 1e-3 if method == "r2d2" else None
    found = Learner(trained(method=method, normalisation=normalisation), l2=l2).fit(X, Y)
    together = found.predict_proba(NEW)
    alone = np.concatenate([found.predict_proba(x) for x in NEW[:4]])
    assert together.shape == (12, 3)
    np.testing.assert_allclose(together[:4], alone, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-12)
    np.testing.assert_array_equal(found.predict(NEW), TRUE)
    assert found.score(NEW, TRUE) == 1


def test_transductive_answers_are_refused_by_name_or_given_together() -> None:
    run = trained(normalisation="transductive")
    refusing = Learner(run).fit(X, Y)
    for ask in (refusing.predict, refusing.predict_proba, refusing.embed, refusing.nearest):
        with pytest.raises(LearnerError, match="normalisation transductive.*together=True"):
            ask(NEW[0])
    asked = Learner(run, together=True).fit(X, Y)
    together = asked.predict_proba(NEW)
    # what the refusal is about, and what its test would miss if answers were the same anyway
    assert abs(together[0] - asked.predict_proba(NEW[0])[0]).max() > 100 * ROUNDING
    with pytest.raises(LearnerError, match="export was asked.*group"):
        asked.export("never written")


def test_the_support_gives_a_transductive_run_answers_to_single_pictures(tmp_path: Path) -> None:
    run = trained(normalisation="transductive")
    found = Learner(run, by_support=True)
    with pytest.raises(LearnerError, match="not fitted yet"):
        found.embed(NEW)
    found.fit(X, Y)
    together = found.predict_proba(NEW)
    alone = np.concatenate([found.predict_proba(x) for x in NEW[:3]])
    np.testing.assert_allclose(together[:3], alone, rtol=0, atol=ROUNDING)
    assert found.score(NEW, TRUE) == 1
    assert found.nearest(X)[0][:, 0].tolist() == list(range(9))
    # the model is shared, and as it was: another learner of it answers as before
    other = Learner(run, together=True).fit(X, Y).predict_proba(NEW)
    assert abs(other - together).max() > ROUNDING
    found.save(tmp_path / "x")
    assert np.array_equal(load(tmp_path / "x").predict_proba(NEW), together)
    with pytest.raises(LearnerError, match="give one"):
        found.set_params(together=True).predict(NEW)
    late = Learner(run, together=True).fit(X, Y).set_params(together=False, by_support=True)
    with pytest.raises(LearnerError, match="set after fit"):
        late.predict(NEW)
    with pytest.raises(LearnerError, match="method maml, which adapts the whole network"):
        Learner(
            trained(normalisation="transductive", method="maml", train=ways(3), test=ways(3)),
            by_support=True,
        ).fit(X, Y)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "c"], ["a", "b", "c"]),
        ([7, -1, 3], [-1, 3, 7]),
        ([(1, "x"), (0, "y"), (0, "x")], [(0, "x"), (0, "y"), (1, "x")]),
        (["b", 1, None], ["b", 1, None]),  # no order among them: as they came
        ([True, False, False], [False, True]),
    ],
)
def test_labels_are_of_any_kind(labels: list[Any], classes: list[Any]) -> None:
    found = learner().fit(X, labels * 3)
    assert list(found.classes_) == classes
    assert set(found.predict(NEW)) <= set(classes)
    named = [labels[at] for at in TRUE]
    assert found.score(NEW, named) == (1 if len(classes) == 3 else pytest.approx(1, abs=0.4))


def test_shots_may_be_unequal() -> None:
    keep = [0, 1, 2, 4, 7]  # 1, 3 and 1 pictures of the classes
    found = learner().fit(X[keep], Y[keep])
    assert found.shots_.tolist() == [1, 3, 1]
    assert found.score(NEW, TRUE) == 1
    places, distances = found.nearest(X[keep], count=2)
    assert places[:, 0].tolist() == [0, 1, 2, 3, 4]  # each is its own nearest
    assert (np.diff(distances) >= 0).all()


def test_fitting_again_forgets_and_repeats_exactly() -> None:
    found = learner().fit(X, Y)
    first = found.predict_proba(NEW)
    found.fit(X[:4] // 2, ["a", "b", "a", "b"])
    assert list(found.classes_) == ["a", "b"]
    assert np.array_equal(found.fit(X, Y).predict_proba(NEW), first)


@pytest.mark.parametrize("method", ["memory-reduced-exact", "maml"])
def test_a_saved_learner_answers_the_same_bit_by_bit(method: str, tmp_path: Path) -> None:
    found = learner(method=method, train=ways(3), test=ways(3))
    found.fit(X, [("class", int(y)) for y in Y])
    found.save(tmp_path / "learner.safetensors")
    again = load(tmp_path / "learner.safetensors")
    assert np.array_equal(again.predict_proba(NEW), found.predict_proba(NEW))
    assert list(again.predict(NEW)) == list(found.predict(NEW))
    assert list(again.classes_) == [("class", 0), ("class", 1), ("class", 2)]
    assert again.shots_.tolist() == [3, 3, 3]
    assert np.array_equal(again.nearest(NEW)[0], found.nearest(NEW)[0])
    assert again.get_params()["l2"] == found.l2


def ways(way: int) -> Any:
    from metalearn.config.groups import EpisodeShape

    return EpisodeShape(way=way, shot=1, query=2)


def test_a_method_that_learned_a_head_for_other_classes_says_so() -> None:
    with pytest.raises(ConfigError, match="initial head has 5 classes"):
        learner(method="maml", train=ways(5), test=ways(5)).fit(X, Y)


def test_what_is_written_is_what_strides_say(tmp_path: Path) -> None:
    """Safetensors writes memory as it lies: a transposed tensor must be copied before."""
    x = torch.arange(24.0).reshape(2, 3, 4)
    fortran = torch.from_numpy(np.asfortranarray(x.numpy()))
    given = {
        "transposed": x.transpose(0, 2),
        "Fortran": fortran,
        "every other": x[:, ::2],
        "channels last": x[None].contiguous(memory_format=torch.channels_last),
    }
    assert not any(tensor.is_contiguous() for tensor in given.values())
    card.write(tmp_path / "x", given, trained().card)
    found, _, _ = card.load(tmp_path / "x")
    for name, tensor in given.items():
        assert torch.equal(found[name], tensor), name


def test_a_damaged_or_strange_file_is_refused(tmp_path: Path) -> None:
    found = learner().fit(X, Y)
    found.save(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match="cut is damaged, or no file of trained weights"):
        load(tmp_path / "cut")
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(RunError, match="says nothing of the pictures"):
        load(tmp_path / "other")
    with pytest.raises(RunError, match="can't be read"):
        load(tmp_path / "absent")
    with pytest.raises(RunError, match="no folder of a finished run"):
        load(tmp_path)
    tensors, own, more = card.load(tmp_path / "whole")
    del tensors["support"]
    card.write(tmp_path / "less", tensors, own, **more)
    with pytest.raises(RunError, match="less is damaged"):
        load(tmp_path / "less")
    with pytest.raises(LearnerError, match="count was given as 0: it must be at least 1"):
        found.nearest(NEW, count=0)


def test_a_file_whose_tensors_were_changed_is_refused(tmp_path: Path) -> None:
    learner().fit(X, Y).save(tmp_path / "whole")
    tensors, own, more = card.load(tmp_path / "whole")
    head, weight = "adapted.head", "model.backbone.convs.0.weight"

    def refuse(said: str, changed: dict[str, torch.Tensor], **others: Any) -> None:
        kept = {name: value for name, value in changed.items() if len(value)}
        card.write(tmp_path / "x", kept, own, learned=more["learned"] | others)
        with pytest.raises(RunError, match=said):
            load(tmp_path / "x")

    refuse("x is damaged .*head", tensors | {head: torch.zeros(0)})
    refuse("x is damaged .*or NaN", tensors | {head: tensors[head] * math.nan})
    fewer = more["learned"]["classes"] | {"values": [0, 1]}
    refuse(r"answers of shape \(1, 3\) for 2 classes", tensors, classes=fewer)
    refuse("weight with NaN or inf", tensors | {weight: tensors[weight] * math.inf})
    refuse("weight in torch.complex64", tensors | {weight: tensors[weight] * 1j})


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (Y[:4], r"labels of shape \(4,\) were given for 9 pictures"),
        (np.zeros((9, 2), int), r"labels of shape \(9, 2\)"),
        ([1] * 9, "name one class, 1"),
        ([0.5] * 9, "Unknown label type"),
        ([float("nan")] * 9, "NaN or inf"),
        ([[1], [2], [3]] * 3, None),
        ([{}] * 9, "can't be told apart"),
        (None, "the target y is None"),
    ],
)
def test_labels_that_name_no_classes_are_refused(labels: Any, said: str | None) -> None:
    with pytest.raises(LearnerError, match=said):
        learner().fit(X, labels)


def test_a_question_before_fit_and_a_strange_parameter_are_refused(tmp_path: Path) -> None:
    found = learner()
    for ask in (found.predict, found.predict_proba, found.nearest):
        with pytest.raises(LearnerError, match=r"call fit\(images, labels\) first"):
            ask(NEW)
    with pytest.raises(LearnerError, match=r"call fit\(images, labels\) first"):
        found.save(tmp_path / "x")
    assert found.embed(NEW).shape[0] == 12  # the backbone needs no classes
    with pytest.raises(
        LearnerError, match="'shot' for a learner: it has trained, l2, by_support, together"
    ):
        found.set_params(shot=3)
    with pytest.raises(ConfigError, match="l2 0.1 was given with ProtoNet"):
        learner(method="protonet").set_params(l2=0.1).fit(X, Y)
    with pytest.raises(LearnerError, match="can't be written to a file"):
        learner().fit(X, [frozenset([y]) for y in Y]).save(tmp_path / "x")


def test_a_head_that_is_no_minimiser_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert learner().fit(X, Y).converged_ is True
    assert learner(method="memory-reduced").fit(X, Y).converged_ is None  # a number of steps
    hurried = LinearHeads(lower=Lower(by=Newton(max_steps=1), adjoint=Detached()), l2=1e-4)
    monkeypatch.setattr(Trained, "method", lambda *_: hurried)
    with pytest.warns(UnsolvedWarning, match="Give a larger l2"):
        found = learner().fit(X, Y)
    assert found.converged_ is False


def test_the_exported_embedding_is_the_embedding(tmp_path: Path) -> None:
    found = learner(channels=3, normalisation="stored")
    found.export(tmp_path / "embedding.pt2")
    program = torch.export.load(tmp_path / "embedding.pt2").module()
    for count in (1, 5):
        x, _ = pictures(count, channels=3, seed=count)
        images = torch.from_numpy(x).permute(0, 3, 1, 2) / 255
        np.testing.assert_allclose(
            program(images).numpy(), found.embed(x), rtol=ROUNDING, atol=ROUNDING
        )
