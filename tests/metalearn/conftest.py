from collections.abc import Iterator

import pytest
import torch

from metalearn.data import Pool, glyph_pool
from metalearn.data.cache import CACHE_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def glyph_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of this session's own: the user's is neither read nor written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("glyphs")))
        yield


@pytest.fixture(scope="session")
def train_pool(glyph_cache: None) -> Pool:
    return glyph_pool("train")


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Commands set torch's threads: put them back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
