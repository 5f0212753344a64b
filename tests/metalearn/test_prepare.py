"""Every form of every data set becomes the same store; what falls short is told."""

import csv
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Final, get_args

import numpy as np
import pytest
import torch

from metalearn.cli import main
from metalearn.config.commands import PrepareConfig
from metalearn.data import Pool, Residency, Split, prepared, prepared_identity, prepared_pool
from metalearn.data.complete import compare
from metalearn.data.prepare import prepare
from metalearn.data.published import SPLITS, DatasetName, published
from metalearn.data.reading import find_source, join
from metalearn.data.store import Store, open_store
from metalearn.errors import ConfigError, DataError, EpisodeError
from metalearn.tasks.episodes import Sampler
from tests.metalearn import legacy
from tests.metalearn.legacy import ARCHIVES, DATA, FORMS, put

RESIDENCIES: Final[tuple[Residency, ...]] = get_args(Residency)
real = pytest.mark.skipif(
    not DATA.is_dir(), reason="the real data sets are not beside the checkout"
)


def stored(name: DatasetName, *sources: Path, side: int | None = None) -> Store:
    root = sources[0].parent / "prepared"
    shutil.rmtree(root, ignore_errors=True)
    config = PrepareConfig(dataset=name, source=sources, root=root, side=side, allow_partial=True)
    prepare(config)
    return open_store(root / name, full=True)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form: str, tmp_path: Path) -> None:
    name, files, examples, named = FORMS[form]
    source = put(tmp_path / "source", files()) / ARCHIVES.get(form, "")
    store = stored(name, source if form in ARCHIVES else tmp_path / "source")
    known = published(name)
    assert store.manifest["partial"]
    assert store.manifest["source"]["files"]
    for split in SPLITS:
        part = store.split(split)
        assert set(part.counts.tolist()) == {examples}
        size = (len(part.names), examples, known.channels, known.side, known.side)
        assert part.images.shape == size
        assert tuple(part.pool().images.shape) == size
        if named:
            assert known.names is not None
            assert set(part.names) <= set(known.names[split])


def test_an_official_archive_is_read_as_its_folder(tmp_path: Path) -> None:
    files = legacy.official_folder()
    put(tmp_path / "a", files)
    put(tmp_path / "b", {"c.tar.gz": legacy.tarred(files), "c.tar": legacy.tarred(files, "w")})
    first = stored("cifar-fs", tmp_path / "a").split("train").images
    for archive in ("c.tar.gz", "c.tar"):
        again = stored("cifar-fs", tmp_path / "b" / archive).split("train").images
        assert np.array_equal(first, again)


def test_torchvision_s_folder_is_not_read_twice(tmp_path: Path) -> None:
    zips = legacy.omniglot()
    files = {f"omniglot-py/{name}": content for name, content in zips.items()}
    for content in zips.values():
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files |= {f"omniglot-py/{name}": archive.read(name) for name in archive.namelist()}
    store = stored("omniglot", put(tmp_path / "s", files))
    assert [store.split(split).counts.tolist() for split in SPLITS] == [[20], [20], [20]]


def test_a_json_that_names_another_folder_is_told(tmp_path: Path) -> None:
    files = legacy.easyfsl_json()
    gone = next(name for name in files if name.endswith("/0.jpg"))
    kept = {
        name: content for name, content in files.items() if Path(name).parent != Path(gone).parent
    }
    said = refusal("tieredimagenet", tmp_path, kept)
    assert f"names the folder 'data/{Path(gone).parent}', and 0 in s fit" in said
    twice = files | {"tiered/val.json": files["tiered/train.json"]}
    assert "a second time" in refusal("tieredimagenet", tmp_path / "twice", twice)


def test_a_folder_with_one_archive_stands_for_it(tmp_path: Path) -> None:
    files = legacy.official_tar()
    assert find_source(put(tmp_path / "s", files), "fc100").layout == "official CIFAR-100 pickles"
    said = refusal("fc100", tmp_path, {"other.zip": legacy.zipped({"x": b""})} | files)
    assert "Give the archive to read as --source" in said


def test_pixels_arrive_in_their_places(tmp_path: Path) -> None:
    pixels = legacy.images(4, 84)
    rows = {"n01532829": [1, 3], "n01558993": [0, 2]}
    value = {"image_data": pixels, "class_dict": rows}
    put(tmp_path / "s", {"mini-imagenet-cache-train.pkl": legacy.python2(value)})
    train = stored("miniimagenet", tmp_path / "s").split("train")
    in_order = pixels[[1, 3, 0, 2]].transpose(0, 3, 1, 2).reshape(2, 2, 3, 84, 84)
    assert np.array_equal(train.images, in_order)
    bgr = {
        "train_images.npz": legacy.npz(images=pixels[..., ::-1]),
        "train_labels.pkl": legacy.python2({"labels": [9, 4, 9, 4]}),
    }
    put(tmp_path / "t", bgr)
    train = stored("tieredimagenet", tmp_path / "t").split("train")
    assert train.names == ("label 4", "label 9")
    assert np.array_equal(train.images, in_order)


def test_grey_images_become_colour(tmp_path: Path) -> None:
    put(tmp_path / "s", legacy.folders("miniimagenet"))
    images = stored("miniimagenet", tmp_path / "s").split("test").images
    for grey in images[:, 1]:
        assert np.array_equal(grey[0], grey[1])
        assert np.array_equal(grey[0], grey[2])


def test_what_is_missing_needs_leave(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "s", legacy.official_folder())
    arguments = ["prepare", "cifar-fs", f"--source={tmp_path / 's'}", f"--root={tmp_path / 'out'}"]
    with pytest.raises(SystemExit):
        main(arguments)
    said = " ".join(capsys.readouterr().err.split())
    assert "64 classes of train have fewer than 600 images" in said
    assert "--allow-partial" in said
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["s"]  # nothing half-written
    main([*arguments, "--allow-partial"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"{tmp_path / 's'}: read as official CIFAR-100 pickles" in said
    assert "partial: 64 classes of train have fewer than 600 images" in said
    assert prepared_identity("cifar-fs", root=tmp_path / "out").name == "cifar-fs, partial"
    main([*arguments, "--allow-partial", "--side=16", f"--root={tmp_path / 'small'}"])
    small = prepared_identity("cifar-fs", root=tmp_path / "small").name
    assert small == "cifar-fs at 16 pixels, partial"
    manifest = json.loads((tmp_path / "out" / "cifar-fs" / "manifest.json").read_text())
    assert manifest["partial"]
    assert len(manifest["lacking"]) == 3
    assert str(tmp_path) not in json.dumps(manifest)
    again = PrepareConfig(
        dataset="cifar-fs", source=(tmp_path / "s",), root=tmp_path / "out", allow_partial=True
    )
    with pytest.raises(DataError, match="there already"):
        prepare(again)


def refusal(name: DatasetName, folder: Path, files: dict[str, bytes]) -> str:
    with pytest.raises(DataError) as refused:
        stored(name, put(folder / "s", files))
    return str(refused.value)


def test_wrong_sources_are_told_apart(tmp_path: Path) -> None:
    page = b"<!DOCTYPE html><html>Google Drive - Virus scan warning"
    for name in ("mini-imagenet-cache-train.pkl", "few-shot-train.npz"):
        said = refusal("miniimagenet", tmp_path / name, {name: page})
        assert "is an HTML page" in said
        assert "browser" in said
    whole = legacy.cache("val")
    short = {name: content[:-1000] for name, content in whole.items()}
    assert "truncated" in refusal("miniimagenet", tmp_path / "c", short)
    zips = {name: content[:-30] for name, content in legacy.omniglot().items()}
    assert "truncated" in refusal("omniglot", tmp_path / "d", zips)
    assert "expected" in refusal("fc100", tmp_path / "e", {"readme.txt": b"hello"})
    less = {"data": legacy.images(4, 32), "labels": [1, 2, 3]}
    said = refusal("fc100", tmp_path / "f", {"FC100_val.pickle": legacy.python2(less)})
    assert "3 labels for 4 images" in said
    wrong = {"data": legacy.images(4, 84), "labels": [1, 2, 3, 4]}
    said = refusal("fc100", tmp_path / "g", {"FC100_val.pickle": legacy.python2(wrong)})
    assert "(4, 84, 84, 3)" in said
    moved = {"val/apple/1.png": legacy.encoded(legacy.images(1, 32)[0])}
    said = refusal("cifar-fs", tmp_path / "h", moved | legacy.folders("cifar-fs"))
    assert "two splits" in said or "is in the train and the validation split" in said
    strange = {"train/dragon/1.png": legacy.encoded(legacy.images(1, 32)[0])}
    said = refusal("cifar-fs", tmp_path / "i", strange | legacy.folders("cifar-fs"))
    assert "dragon" in said
    (tmp_path / "j.zip").write_bytes(page)
    with pytest.raises(DataError, match="HTML page"):
        find_source(tmp_path / "j.zip", "cifar-fs")
    with pytest.raises(DataError, match="does not exist"):
        stored("cifar-fs", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="side was given as 0"):
        PrepareConfig(dataset="fc100", source=(tmp_path,), side=0)


def test_nothing_is_left_of_a_folder_that_could_not_be_finished(tmp_path: Path) -> None:
    files = legacy.folders("cifar-fs")
    last = sorted(files)[-1]
    files[last] = files[last][:100]
    assert f"{last} can't be read as a picture" in refusal("cifar-fs", tmp_path, files)
    assert not (tmp_path / "prepared").exists()


def test_the_same_source_twice_is_too_much(tmp_path: Path) -> None:
    source = put(tmp_path / "s", {"cifar-100-python/x": b""} | legacy.official_folder())
    with pytest.raises(DataError, match="pictures that are there twice: 200"):
        stored("cifar-fs", source, source)
    sources = [find_source(source, "cifar-fs")] * 301
    joined = join(sources)
    sizes = {split: [(p.name, p.count) for p in parts] for split, parts in joined.items()}
    with pytest.raises(DataError, match="up to 602 a class, more than published"):
        compare(sizes, published("cifar-fs"))


def test_a_store_notices_changes(tmp_path: Path) -> None:
    put(tmp_path / "s", legacy.folders("cifar-fs"))
    store = stored("cifar-fs", tmp_path / "s")
    file = store.path / "train.images.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    open_store(store.path)
    with pytest.raises(DataError, match="was changed"):
        open_store(store.path, full=True)
    file.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="bytes where"):
        open_store(store.path)
    with pytest.raises(DataError, match="metalearn prepare"):
        open_store(tmp_path)


def test_classes_of_several_sizes_are_padded_and_padding_is_never_drawn(tmp_path: Path) -> None:
    files = {}
    for number, name in enumerate(("apple", "bus", "chair"), start=2):
        for k in range(number):
            files[f"train/{name}/{k}.png"] = legacy.encoded(
                np.full((8, 8, 3), 10 * number + k + 1, np.uint8)
            )
    put(tmp_path / "s", files)
    root = tmp_path / "prepared"
    prepare(PrepareConfig(dataset="folders", source=(tmp_path / "s",), root=root, side=8))
    pool = prepared_pool("folders", "train", root=root)
    assert (pool.examples, pool.fewest, pool.counts) == (4, 2, (2, 3, 4))
    drawn = Sampler(pool=pool, way=3, shot=1, query=1, seed=0, augmentation=None).sample(0, 200)
    values = set((drawn.images * 255).round().int().flatten().tolist())
    assert values == {21, 22, 31, 32, 33, 41, 42, 43, 44}
    with pytest.raises(EpisodeError, match="split has 2"):
        Sampler(pool=pool, way=3, shot=1, query=2, seed=0)


def test_a_pool_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    store = stored("cifar-fs", put(tmp_path / "s", legacy.folders("cifar-fs")))
    store.split("train").pool().images.zero_()  # copied on write
    store.verify()


def test_residencies_give_the_same_episodes(tmp_path: Path) -> None:
    root = stored("cifar-fs", put(tmp_path / "s", legacy.folders("cifar-fs"))).path.parent
    here = torch.device("cpu")
    pools = [prepared_pool("cifar-fs", "test", root=root, residency=r) for r in RESIDENCIES]
    assert [pool.device for pool in pools] == [here] * 3
    addresses = [pool.images.data_ptr() for pool in pools]
    assert len(set(addresses)) == 3
    found = [Sampler(pool=p, way=2, shot=1, query=1, seed=0).sample(3, 4).images for p in pools]
    assert all(torch.equal(found[0], other) for other in found[1:])
    with pytest.raises(DataError, match="metalearn prepare fc100"):
        prepared_pool("fc100", "test", root=root)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_images_go_to_a_gpu_where_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = stored("cifar-fs", put(tmp_path / "s", legacy.folders("cifar-fs"))).path.parent
    there = torch.device("cuda")

    def pool(residency: Residency) -> Pool:
        return prepared_pool("cifar-fs", "test", root=root, device=there, residency=residency)

    needed = pool("host").images.nbytes
    assert not pool("host").images.is_cuda
    assert pool("auto").images.is_cuda
    monkeypatch.setattr(prepared, "_free", lambda device: 2 * needed - 1)
    assert not pool("auto").images.is_cuda
    assert pool("device").images.is_cuda
    monkeypatch.setattr(prepared, "_free", lambda device: needed - 1)
    with pytest.raises(DataError, match="use residency host"):
        pool("device")
    drawn = Sampler(pool=pool("host"), way=2, shot=1, query=1, seed=0, augmentation=None)
    assert drawn.sample(0, 1).images.is_cuda


def twice(store: Store) -> list[str]:
    """The pictures that `remarks.csv` says are there twice."""
    with (store.path / "remarks.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["used"] == "yes"]
    assert all("the same picture as" in row["remark"] for row in rows)
    return [row["file"] for row in rows]


@real
def test_omniglot_whole(tmp_path: Path) -> None:
    main(["prepare", "omniglot", f"--source={DATA / 'omniglot'}", f"--root={tmp_path}"])
    store = open_store(tmp_path / "omniglot")
    assert not store.manifest["partial"]
    half = "images_background.zip/images_background"
    assert twice(store) == [f"{half}/Braille/character01/0192_19.png"]
    for split, classes in (("train", 1028), ("validation", 172), ("test", 423)):
        pool = store.split(split).pool()  # type: ignore[arg-type]
        assert pool.images.shape == (classes, 20, 1, 28, 28)
        # Ink is light, and a drawing has some of it, never most.
        share = pool.images.float().mean((1, 2, 3, 4)) / 255
        assert 0.005 < share.min() <= share.max() < 0.35
    episodes = Sampler(pool=store.split("test").pool(), way=20, shot=1, query=1, seed=0).sample(
        0, 2
    )
    assert episodes.images.shape == (2, 40, 1, 28, 28)


@real
@pytest.mark.parametrize("name", ["cifar-fs", "fc100"])
def test_cifar_from_250_images_a_class(name: DatasetName, tmp_path: Path) -> None:
    arguments = [str(DATA / "cifar100"), str(DATA / "cifar100" / "cifar-fs-train150.zip")]
    main(["prepare", name, "--source", *arguments, f"--root={tmp_path}", "--allow-partial"])
    store = open_store(tmp_path / name)
    assert len(twice(store)) == 4
    meta = [f for f in store.manifest["source"]["files"] if f["name"].endswith("meta")]
    assert meta[0]["official"] == "cifar-100-python/meta"
    pools = [store.split(split).pool() for split in SPLITS]
    assert [pool.examples for pool in pools] == [250] * 3
    assert sum(pool.classes for pool in pools) == 100
    # Published mean of the 50,000 training images; half of them are here, and the test's besides.
    means = torch.stack([pool.images.float().mean((0, 1, 3, 4)) for pool in pools]) / 255
    sizes = torch.tensor([float(pool.classes) for pool in pools])
    mean = (means * sizes[:, None]).sum(0) / 100
    torch.testing.assert_close(mean, torch.tensor([0.5071, 0.4865, 0.4409]), atol=5e-3, rtol=0)


@real
@pytest.mark.parametrize(
    ("name", "classes"), [("tieredimagenet", (61, 17, 45)), ("miniimagenet", (14, 6, 5))]
)
def test_tiny_imagenet_by_the_published_splits(
    name: DatasetName, classes: tuple[int, ...], tmp_path: Path
) -> None:
    archive = DATA / "tiny_imagenet" / "tiny-imagenet-subset60.zip"
    source = find_source(archive, name, side=64)
    assert tuple(len(source.splits[split]) for split in SPLITS) == classes
    split: Split
    for split in SPLITS:
        part = source.splits[split][0]
        assert part.load().shape == (part.count, 64, 64, 3) == (60, 64, 64, 3)
