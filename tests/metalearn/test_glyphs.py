"""The built-in data set: its pixels, its split, and a cache that is either right or rebuilt."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from metalearn.data import glyph_pool, glyphs
from metalearn.data.cache import CACHE_VARIABLE
from metalearn.data.glyphs import SCRIPTS, glyph_classes, glyph_images
from metalearn.errors import DataError

REFERENCE = Path(__file__).parents[3] / "shared" / "data" / "glyphs" / "glyphs28.npz"
# Every 40th class in all faces, rendered once by this package when its pixels were the reference's.
SAMPLE = Path(__file__).with_name("glyphs_sample.npz")
# The same rule, maybe another FreeType and Pillow: coverage is rounded to one of 255 levels once by
# the one and once by the other.
LEVELS = 2


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A filled cache: a copy, since drawing all glyphs takes more than a second."""
    glyph_images()
    whole = glyphs.cache_file()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    glyphs.cache_file().parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(whole, glyphs.cache_file())
    return glyphs.cache_file()


@pytest.mark.skipif(not REFERENCE.is_file(), reason="the reference renderings aren't there")
def test_pixels_are_those_of_the_reference() -> None:
    with np.load(REFERENCE, allow_pickle=False) as file:
        expected = file["images"].astype(int)
        codepoints = [int(point) for point in file["codepoints"]]
    assert [ord(glyph.char) for glyph in glyph_classes()] == codepoints
    difference = np.abs(glyph_images().astype(int) - expected)
    assert difference.max() <= LEVELS


def test_pixels_are_those_they_were() -> None:
    with np.load(SAMPLE, allow_pickle=False) as file:
        index, expected = file["index"], file["images"].astype(int)
    found = glyph_images()[index].astype(int)
    assert expected.shape == (12, 12, 28, 28)
    assert np.abs(found - expected).max() <= LEVELS
    # Another class in its place would show: no two are that close.
    assert np.abs(np.roll(found, 1, axis=0) - expected).max(axis=(1, 2, 3)).min() > 100


def test_an_image_follows_the_rule() -> None:
    ink = glyph_images().astype(bool)
    for across in (2, 3):
        lines = ink.any(axis=across)
        before, after = lines.argmax(-1), np.flip(lines, -1).argmax(-1)
        # Centred to half a pixel; averaging may round a faint outer line of 1/255 to nothing, so
        # few images (1.6 % in the reference) are smaller than their box.
        assert (np.isin(after - before, (0, 1))).mean() > 0.98
        assert before.min() >= 4
        assert after.min() >= 4
    height = ink.any(axis=3).sum(-1)
    width = ink.any(axis=2).sum(-1)
    assert np.maximum(height, width).max() == 20
    assert (np.maximum(height, width) == 20).mean() > 0.98


def test_splits_are_by_script() -> None:
    pools = [glyph_pool(split) for split in ("train", "validation", "test")]
    assert [pool.images.shape for pool in pools] == [
        (classes, 12, 1, 28, 28) for classes in (256, 64, 141)
    ]
    names = [set(pool.names) for pool in pools]
    assert len(set.union(*names)) == 256 + 64 + 141 == len(glyph_classes())
    for pool, scripts in zip(pools, SCRIPTS.values(), strict=True):
        assert pool.images.dtype is torch.uint8
        by_name = {glyph.name: glyph.script for glyph in glyph_classes()}
        assert {by_name[name] for name in pool.names} == set(scripts)


def test_no_class_is_another_class_in_disguise() -> None:
    images = glyph_images().reshape(461, -1)
    assert len(np.unique(images, axis=0)) == 461


def test_cache_is_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = glyph_images()

    def fail() -> None:
        raise AssertionError("rendered although cached")

    monkeypatch.setattr(glyphs, "render_glyphs", fail)
    assert np.array_equal(glyph_images(), expected)


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damage",
    [_flip, lambda content: content[:-1], lambda content: content + b"\0", lambda content: b""],
    ids=["one bit", "truncated", "too long", "empty"],
)
def test_damaged_cache_is_rebuilt(
    cache: Path, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, expected = cache.read_bytes(), glyph_images()
    drawn = []

    def draw() -> np.ndarray:
        drawn.append(expected)
        return expected

    monkeypatch.setattr(glyphs, "render_glyphs", draw)
    cache.write_bytes(damage(whole))
    assert np.array_equal(glyph_images(), expected)
    assert len(drawn) == 1
    assert cache.read_bytes() == whole
    assert list(cache.parent.iterdir()) == [cache]  # no temporary file is left


def test_another_rule_is_another_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyphs, "RULE", glyphs.RULE + ", changed")
    assert glyphs.cache_file() != cache


def test_unusable_cache_folder_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "below"))
    with pytest.raises(DataError, match=f"Set {CACHE_VARIABLE} to a folder you can write to"):
        glyph_images()
