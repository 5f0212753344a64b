"""`metalearn classify` answers as the Python API does, and its page shows what it was given."""

from __future__ import annotations

import base64
import csv
import io
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metalearn import Learner, Sampler, load
from metalearn.cli import main
from metalearn.cli.classify import _scores
from metalearn.data import glyph_pool
from metalearn.errors import DataError
from metalearn.learner.folders import Folder, labels_of, support_files
from metalearn.runs.folder import Run
from metalearn.testing.abstention import threshold
from tests.metalearn.commands import SMALL, refused
from tests.metalearn.learner.subjects import trained

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
CLASSES = ["<i>&alpha", "=beta", "gamma"]  # names that markup and spreadsheets would take for more
SHOTS = [3, 1, 2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classify") / "run"
    main(["train", f"--run={folder}", "--normalisation=group", "--tracker=none", *SMALL])
    return folder


@pytest.fixture(scope="module")
def drawn(run: Path) -> Path:
    """Glyphs as dark ink on white paper: support in folders, query in one."""
    ink = glyph_pool("test").images[:3, :, 0].numpy()
    for name, shots, images in zip(CLASSES, SHOTS, ink, strict=True):
        (run.parent / "support" / name).mkdir(parents=True)
        for at in range(shots):
            Image.fromarray(255 - images[at]).save(run.parent / "support" / name / f"{at}.png")
        (run.parent / "query").mkdir(exist_ok=True)
        for at in (10, 11):
            Image.fromarray(255 - images[at]).save(run.parent / "query" / f"{name}-{at}.png")
    (run.parent / "support" / "notes.txt").write_text("of no class")
    (run.parent / "query" / "<b>page.png").write_text("<html>")
    return run.parent


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.pictures: list[np.ndarray] = []
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "img":
            data = (dict(attrs)["src"] or "").removeprefix("data:image/png;base64,")
            self.pictures.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))

    def handle_data(self, data: str) -> None:
        self.said += data


def test_answers_are_those_of_the_learner(run: Path, drawn: Path, tmp_path: Path) -> None:
    options = [f"--run={run}", f"--support={drawn / 'support'}", f"--out={tmp_path}"]
    main(["classify", *options, "--query", str(drawn / "query")])
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows][-1] == "<b>page.png"
    assert rows[-1]["note"].startswith("not read: ")
    files = sorted(file for file in (drawn / "query").iterdir() if "page" not in file.name)
    assert [row["file"] for row in rows[:-1]] == list(map(str, files))

    labelled = sorted((drawn / "support").glob("*/*.png"))
    learner = load(run).fit(labelled, [file.parent.name for file in labelled])
    assert learner.shots_.tolist() == SHOTS
    assert [row["answer"] for row in rows[:-1]] == learner.predict(files).tolist()
    names = learner.classes_.tolist()
    found = [[float(row[f"probability {name}"]) for name in names] for row in rows[:-1]]
    # the file has six digits; the rest is a pass in a batch of another size
    np.testing.assert_allclose(found, learner.predict_proba(files), atol=1e-5)

    text = (tmp_path / "answers.html").read_text()
    page = Page(text)
    # six questions with three neighbours each: no tag comes from a name, no address from anywhere
    assert page.tags.count("img") == 6 * 4
    assert page.tags.count("i") == page.tags.count("b") == 6 * 3  # the bars' own
    assert "&lt;i&gt;&amp;alpha" in text
    assert "<i>&alpha" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text
    assert "<i>&alpha" in page.said
    assert "normalisation group (accuracy of single pictures, too)" in page.said
    assert "notes.txt is in no folder of a class" in page.said
    first = np.asarray(Image.open(files[0]))
    assert np.array_equal(page.pictures[0], first)  # as a person sees it, not inverted


def test_the_weights_say_what_they_need(run: Path) -> None:
    card = Run(run).card()
    picture = card.pictures
    assert (picture.side, picture.channels, picture.inverted) == (28, 1, True)
    assert card.normalisation == "group"
    assert card.classes == list(glyph_pool("train").names)
    assert {"torch", "hypergradients"} <= card.versions.keys()
    assert card.settings["run"] is None  # no path of this machine
    again = load(run / "weights.safetensors")  # the file alone
    x = np.zeros((28, 28), np.uint8)
    assert np.array_equal(again.embed(x), load(run).embed(x))


def test_ink_may_be_light_already(run: Path) -> None:
    dark, light = np.zeros((28, 28), np.uint8), np.full((28, 28), 255, np.uint8)
    assert not np.allclose(load(run).embed(dark), load(run).embed(light))


def test_answers_are_withheld_below_the_threshold(
    run: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [f"--run={run}", f"--support={drawn / 'support'}", f"--out={tmp_path}"]
    query = ["--query", str(drawn / "query" / "gamma-10.png")]
    main(["classify", *options, *query, "--abstain=0.5", "--inverted=False"])
    said = " ".join(capsys.readouterr().out.split())
    assert "no answer below probability" in said
    assert "validation questions get an answer" in said
    few = refused(["classify", *options, *query, "--abstain=0.9999"], capsys)
    assert "can't be reached by abstaining" in few


def test_thresholds_are_found_on_answers_of_the_same_kind() -> None:
    run = trained(normalisation="transductive")
    pool = glyph_pool("validation")
    batch = Sampler(pool=pool, way=3, shot=2, query=2, seed=0).sample(0, 2)
    asked = Learner(run, by_support=True)
    found = _scores(asked)(batch)
    for task in range(2):  # as the learner itself answers, whose pictures have 256 levels
        pixels = (batch.images[task] * 255).round() / 255
        asked.fit(pixels[:6], batch.support_labels[task])
        expected = asked.predict_proba(pixels[6:])
        np.testing.assert_allclose(found[task].softmax(-1), expected, atol=0.02)
    apart = _scores(Learner(run, together=True))(batch)
    assert abs(apart.softmax(-1) - found.softmax(-1)).max() > 0.04


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"query": "absent"}, "absent is not there"),
        ({"support": "query"}, "files in no folder of a class"),
        ({"query": "query/<b>page.png"}, "none of the 1 files of the query is a picture"),
        ({"run": "support"}, "no folder of a finished run"),
    ],
)
def test_what_cannot_be_classified_is_refused(
    changed: dict[str, str],
    said: str,
    run: Path,
    drawn: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = {"run": "run", "support": "support", "query": "query"} | changed
    options = [part for name, path in given.items() for part in (f"--{name}", str(drawn / path))]
    assert said in refused(["classify", *options, "--out", str(tmp_path)], capsys)
    assert not list(tmp_path.iterdir())


def test_a_support_that_would_lose_or_mix_classes_is_refused(tmp_path: Path) -> None:
    for name in ("rose", "tulip"):
        (tmp_path / "deep" / "flowers" / name).mkdir(parents=True)
        (tmp_path / "deep" / "flowers" / name / "1.png").touch()
    with pytest.raises(DataError, match="flowers, of a class"):
        support_files(tmp_path / "deep")
    (tmp_path / "deep" / "trees" / "oak").mkdir(parents=True)
    (tmp_path / "deep" / "trees" / "oak" / "1.png").touch()
    with pytest.raises(DataError, match="holds folders of folders, the first .*rose/1.png"):
        support_files(tmp_path / "deep")
    place = tmp_path / "deep" / "flowers"
    assert len(support_files(place)[0]) == 2
    (place / "empty").mkdir()
    (place / ".hidden").mkdir()
    with pytest.raises(DataError, match="empty holds no file: .*1 here"):
        support_files(place)

    pixels = np.arange(3, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2)
    files = [place / "rose" / "1.png", place / "tulip" / "1.png", place / "tulip" / "2.png"]
    lost = [(place / "lily" / "1.png", "lily/1.png is an HTML page")]
    assert labels_of(Folder(files, pixels, []), place) == ["rose", "tulip", "tulip"]
    with pytest.raises(DataError, match="no file of the class lily is a picture; .*HTML page"):
        labels_of(Folder(files, pixels, lost), place)
    pixels[2] = pixels[0]
    with pytest.raises(DataError, match=r"rose/1.png and .*tulip/2.png are the same picture"):
        labels_of(Folder(files, pixels, []), place)


def test_a_run_whose_weights_were_exchanged_is_refused(
    run: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Run(Path(shutil.copytree(run, tmp_path / "other")))
    other.write_weights({name: -w for name, w in other.weights().items()}, other.card())
    options = [f"--run={other.folder}", f"--support={drawn / 'support'}", f"--out={tmp_path}"]
    said = refused(["classify", *options, "--query", str(drawn / "query")], capsys)
    assert "weights.safetensors is not the file that result.json is the result of" in said


@pytest.mark.parametrize(
    ("right", "wanted", "expected"),
    [
        ([1, 1, 1, 1], 0.9, 0.2),
        ([1, 1, 0, 0], 0.9, 0.8),
        ([1, 1, 0, 0], 0.6, 0.8),  # 0.5 comes twice, once wrong: 2 of 4 are right
        ([1, 0, 1, 1], 0.7, 0.2),
        ([0, 0, 0, 0], 0.5, None),
    ],
)
def test_a_threshold_is_the_lowest_that_is_enough(
    right: list[int], wanted: float, expected: float | None
) -> None:
    sure = torch.tensor([0.9, 0.8, 0.5, 0.2], dtype=torch.float64)
    if right == [1, 1, 0, 0] and wanted == 0.6:
        sure[3] = 0.5
    assert threshold(sure, torch.tensor(right).bool(), wanted) == expected


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_shows_pictures_and_bars(run: Path, drawn: Path, tmp_path: Path) -> None:
    options = [f"--run={run}", f"--support={drawn / 'support'}", f"--out={tmp_path}"]
    main(["classify", *options, "--query", str(drawn / "query")])
    shot = tmp_path / "page.png"
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1000,1600"]
    quiet += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}"]
    page = (tmp_path / "answers.html").as_uri()
    command = [str(BROWSER), *quiet, page]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    seen = np.asarray(Image.open(shot).convert("RGB")).astype(int)

    # each picture of the query is there, three pixels of the page for one of its own
    grey = seen.mean(-1)
    for file in sorted((drawn / "query").glob("*-1*.png")):
        large = np.asarray(Image.open(file)).repeat(3, 0).repeat(3, 1)
        windows = np.lib.stride_tricks.sliding_window_view(grey, large.shape)[:, 20:60]
        near = abs(windows[..., 40, :] - large[40]).max(-1) < 2  # by one line, then by all
        assert any(abs(windows[at] - large).max() < 2 for at in map(tuple, np.argwhere(near))), file

    # bars are as long as their probabilities, to a pixel at each end
    blue = abs(seen - (0x44, 0x60, 0xC8)).max(-1) < 8
    starts = np.flatnonzero(np.diff(blue.any(1).astype(int), prepend=0) == 1)
    lengths = [int(blue[start + 3].sum()) for start in starts]
    with (tmp_path / "answers.csv").open(newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["answer"]]
    stated = [sorted(float(row[f"probability {name}"]) for name in CLASSES)[::-1] for row in rows]
    whole = max(lengths) / max(p for row in stated for p in row)
    # the page says tenths of a percent, and even the shortest bar is drawn
    expected = [p * whole for row in stated for p in row if p >= 0.0005]
    assert len(lengths) == len(expected)
    np.testing.assert_allclose(lengths, expected, atol=2)
