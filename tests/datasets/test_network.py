from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from jax_softmax.datasets import load_dataset, network
from jax_softmax.datasets.catalog import CATALOG
from jax_softmax.datasets.registry import registered_files
from jax_softmax.errors import InputError

IRIS = registered_files(CATALOG["iris"])["iris.zip"]
Probe = network.Probe  # the real one, which the fixtures replace


class Answer:
    """What `requests` gives of a host: a status and, to a download, the content."""

    def __init__(self, status=200, url="", content=b""):
        self.ok, self.status_code, self.url = status < 400, status, url
        self.headers, self.content = {}, content

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def iter_content(self, chunk_size):
        return iter([self.content[:700], self.content[700:]])


def serve(monkeypatch, contents):
    """Let TFDS's downloads deliver `contents`, file name to bytes or to the error to raise."""

    def get(session, url, **options):
        content = contents[url.rsplit("/", 1)[1]]
        if isinstance(content, Exception):
            raise content
        return Answer(url=url, content=content)

    monkeypatch.setattr(requests.Session, "get", get)


@pytest.fixture
def iris_zip(real_data):
    return (real_data / "iris" / "iris.zip").read_bytes()


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """The folder that iris is downloaded to."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds" / "downloads" / "iris"


def files_under(folder):
    return [path for path in folder.rglob("*") if not path.is_dir() or ".tmp." in path.name]


def test_nowhere_to_be_found_says_what_to_place_and_where(surroundings, asked):
    with pytest.raises(InputError) as caught:
        load_dataset("mnist")
    message = str(caught.value)
    for name, digest in {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f2035",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e801",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2db",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204",
    }.items():
        assert f"{name}  SHA-256 {digest}" in message
    data = Path.cwd() / "data"
    assert f"Place these files in {data / 'mnist'}" in message
    assert f"--raw-dir {data}" in message and f"JAX_SOFTMAX_RAW_DIR={data}" in message
    assert f"{Path.home() / 'tensorflow_datasets' / 'mnist'}" in message
    assert "the test has no network" in message
    assert asked == [CATALOG["mnist"].base_url + "train-images-idx3-ubyte.gz"]
    assert not files_under(surroundings) and not (Path.home() / "tensorflow_datasets").exists()


def test_the_folder_in_the_variable_is_the_one_to_place_files_in(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_SOFTMAX_RAW_DIR", str(tmp_path))
    with pytest.raises(InputError, match=f"Place these files in {tmp_path / 'mnist'}\n"):
        load_dataset("mnist")


def test_iris_falls_back_to_the_bundled_copy(surroundings, asked):
    source = load_dataset("iris").source
    assert source.startswith("scikit-learn's bundled copy (no network, nothing placed); it differs")
    assert asked == [IRIS.url]
    assert not files_under(surroundings)


@pytest.mark.usefixtures("online")
def test_a_download_is_kept_and_needs_no_network_again(
    real_data, iris_zip, downloads, asked, monkeypatch, capfd
):
    serve(monkeypatch, {"iris.zip": iris_zip})
    first = load_dataset("iris")
    assert first.source == f"downloaded by TFDS to {downloads} (SHA-256 verified)"
    assert len(files_under(downloads.parents[1])) == 2  # the file and TFDS's note of it
    assert asked == [IRIS.url]

    serve(monkeypatch, {})
    again = load_dataset("iris")
    assert len(asked) == 1
    np.testing.assert_array_equal(first.test.features, again.test.features)
    raw = load_dataset("iris", raw_dir=real_data)
    np.testing.assert_array_equal(first.test.features, raw.test.features)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("online")
def test_tfds_itself_finds_what_was_downloaded_and_shows_its_bars_again(
    iris_zip, downloads, monkeypatch, capfd
):
    serve(monkeypatch, {"iris.zip": iris_zip})
    load_dataset("iris")
    serve(monkeypatch, {})
    manager = tfds.download.DownloadManager(
        download_dir=downloads.parent,
        dataset_name="iris",
        url_infos=tfds.builder_cls("iris").url_infos,
    )
    assert manager.download(IRIS.url).parent == downloads
    assert "Dl Completed" in capfd.readouterr().err


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            b"<html>sign in to the network</html>",
            "NonMatchingChecksumError: Artifact .* wrong chec",
        ),
        (requests.ConnectionError("the cable was cut"), "ConnectionError: the cable was cut"),
    ],
)
def test_a_failed_download_leaves_nothing_behind(content, reason, surroundings, monkeypatch):
    serve(monkeypatch, {"iris.zip": content})
    with pytest.raises(InputError, match=f"downloading iris to .* failed: {reason}") as caught:
        load_dataset("iris")
    assert "--raw-dir" in str(caught.value) and IRIS.sha256 in str(caught.value)
    assert not files_under(surroundings)


def test_a_download_is_known_by_its_content_whatever_it_is_called(iris_zip, downloads, asked):
    downloads.mkdir(parents=True)
    (downloads / "any-name").write_bytes(iris_zip)
    assert load_dataset("iris").source.startswith(f"downloaded by TFDS to {downloads}")
    assert not asked


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("damage", [lambda content: b"cut", lambda content: content[:-1] + b"?"])
def test_a_damaged_download_is_made_anew(damage, iris_zip, downloads, asked, monkeypatch):
    serve(monkeypatch, {"iris.zip": iris_zip})
    load_dataset("iris")
    (path,) = downloads.glob("*.zip")
    path.write_bytes(damage(iris_zip))
    load_dataset("iris")
    assert len(asked) == 2
    assert path.read_bytes() == iris_zip and len(files_under(downloads)) == 2


def test_a_damaged_download_is_not_used_where_there_is_no_network(downloads, asked):
    downloads.mkdir(parents=True)
    (downloads / "iris.zip").write_bytes(b"not what the name says")
    assert load_dataset("iris").source.startswith("scikit-learn's bundled copy")
    assert asked == [IRIS.url]


@pytest.mark.usefixtures("online")
def test_what_cannot_be_overwritten_is_told(iris_zip, downloads, monkeypatch):
    serve(monkeypatch, {"iris.zip": iris_zip})
    load_dataset("iris")
    (path,) = downloads.glob("*.zip")
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="downloading iris to .* failed: IsADirectoryError"):
        load_dataset("iris")


@pytest.mark.usefixtures("online")
def test_a_data_folder_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(InputError, match="downloading iris to .* failed: NotADirectoryError"):
        load_dataset("iris")


@pytest.mark.parametrize(
    ("status", "failure"), [(200, ""), (404, "HTTP status 404"), (503, "HTTP status 503")]
)
def test_probe_judges_by_the_status(status, failure, monkeypatch):
    monkeypatch.setattr(requests, "get", lambda url, **options: Answer(status))
    assert Probe("https://host.invalid/").failure() == failure


@pytest.mark.parametrize("error", [requests.exceptions.ProxyError("no"), OSError("no CA bundle")])
def test_probe_tells_why(error, monkeypatch):
    def get(url, **options):
        raise error

    monkeypatch.setattr(requests, "get", get)
    assert Probe("https://host.invalid/").failure() == f"{type(error).__name__}: {error}"


def test_probe_of_a_host_that_refuses(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = unheard.getsockname()[1]
        assert Probe(f"http://127.0.0.1:{port}/").failure().startswith("NewConnectionError")


def test_a_probe_that_hangs_delays_neither_the_caller_nor_the_exit():
    script = """
        import socket, time
        socket.getaddrinfo = lambda *args, **options: time.sleep(600)
        from jax_softmax.datasets.network import Probe
        print(Probe("https://host.invalid/", seconds=0.2).failure())
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "no_proxy": "*"},
    )
    assert (done.stdout, done.stderr) == ("no answer within 0.2 s\n", "")
