from __future__ import annotations

import contextlib
import dataclasses
import http.server
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from jax_softmax.datasets import load, load_dataset, network
from jax_softmax.datasets.catalog import CATALOG
from jax_softmax.datasets.registry import registered_files
from jax_softmax.errors import InputError

IRIS = registered_files(CATALOG["iris"])["iris.zip"]
Probe = network.Probe  # the real one, which the fixtures replace


class Host:
    """A host on this machine that answers with `contents`, file name to bytes, as it is told to."""

    def __init__(self):
        self.contents, self.answer, self.requests = {}, whole, []
        self.over = threading.Event()
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rsplit("/", 1)[1]
                host.requests.append((name, self.headers.get("Range")))
                with contextlib.suppress(OSError):  # the other side has gone
                    host.answer(self, host.contents.get(name), host)

            def log_message(self, *_words):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def head(handler, status=200, **headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()


def whole(handler, content, host):
    if content is None:
        head(handler, 404)
        return
    head(handler, Content_Length=len(content))
    handler.wfile.write(content)


def from_the_middle(handler, content):
    """Goes on where the Range says, as servers do that can."""
    first = int((handler.headers.get("Range") or "bytes=0-")[len("bytes=") : -1])
    about = {"Content_Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if first else {}
    head(handler, 206 if first else 200, Content_Length=len(content) - first, **about)
    return content[first:]


def cut(handler, content, host):
    """Breaks the connection off after 1,000 bytes, twice."""
    rest = from_the_middle(handler, content)
    handler.wfile.write(rest[:1000] if len(host.requests) < 3 else rest)


def cut_and_cannot_resume(handler, content, host):
    head(handler, Content_Length=len(content))
    handler.wfile.write(content[:1000] if len(host.requests) < 3 else content)


def unavailable_at_first(handler, content, host):
    if len(host.requests) < 3:
        head(handler, 503)
    else:
        whole(handler, content, host)


def always_500(handler, content, host):
    head(handler, 500)


def stall(handler, content, host):
    host.over.wait(60)


def stall_after_the_head(handler, content, host):
    head(handler, Content_Length=len(content))
    host.over.wait(60)


def stall_in_the_middle(handler, content, host):
    head(handler, Content_Length=len(content))
    handler.wfile.write(content[:1000])
    handler.wfile.flush()
    host.over.wait(60)


def drip(handler, content, host):
    head(handler, Content_Length=len(content))
    for byte in content:
        if host.over.wait(0.05):
            return
        handler.wfile.write(bytes([byte]))


def drip_the_head(handler, content, host):
    while not host.over.wait(0.05):
        handler.wfile.write(b"H")


def endless(handler, content, host):
    head(handler)
    while not host.over.is_set():
        handler.wfile.write(bytes(2**16))


def endless_chunks(handler, content, host):
    handler.protocol_version = "HTTP/1.1"
    head(handler, Transfer_Encoding="chunked")
    while not host.over.is_set():
        handler.wfile.write(b"1000\r\n" + bytes(0x1000) + b"\r\n")


@pytest.fixture
def host():
    host = Host()
    yield host
    host.close()


@pytest.fixture
def served(host, monkeypatch):
    """Has iris be downloaded from `host`, in limits that tests can wait for."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    iris = dataclasses.replace(IRIS, url=f"{host.url}iris.zip")
    monkeypatch.setattr(network, "_files_to_fetch", lambda entry: [iris])
    monkeypatch.setattr(network, "LIMITS", network.Limits(seconds=20.0, pause=0.01))
    return host


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
    real_data, iris_zip, downloads, asked, served, capfd
):
    served.contents = {"iris.zip": iris_zip}
    first = load_dataset("iris")
    assert first.source == f"downloaded to {downloads} (SHA-256 verified)"
    assert files_under(downloads.parents[1]) == [downloads / "iris.zip"]
    assert asked == [IRIS.url]

    again = load_dataset("iris")
    assert len(asked) == len(served.requests) == 1
    np.testing.assert_array_equal(first.test.features, again.test.features)
    raw = load_dataset("iris", raw_dir=real_data)
    np.testing.assert_array_equal(first.test.features, raw.test.features)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>sign in to the network</html>", "is not the file that TFDS registers as iris.zip"),
        (bytes(4000), "(more than the file's|is not the file that)"),
        (None, "HTTP status 404"),
    ],
)
def test_a_failed_download_leaves_nothing_behind(content, reason, surroundings, served):
    served.contents = {"iris.zip": content}
    with pytest.raises(
        InputError, match=rf"(?s)downloading iris to .* failed: .*{reason}"
    ) as caught:
        load_dataset("iris")
    assert "--raw-dir" in str(caught.value) and IRIS.sha256 in str(caught.value)
    assert not files_under(surroundings)


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(
    ("answer", "ranges"),
    [
        (cut, [None, "bytes=1000-", "bytes=2000-"]),
        (cut_and_cannot_resume, [None, "bytes=1000-", "bytes=1000-"]),
        (unavailable_at_first, [None, None, None]),
    ],
)
def test_a_download_goes_on_after_a_failure(answer, ranges, iris_zip, downloads, served):
    served.contents, served.answer = {"iris.zip": iris_zip}, answer
    assert load_dataset("iris").source.startswith("downloaded to ")
    assert [asked for _, asked in served.requests] == ranges
    assert (downloads / "iris.zip").read_bytes() == iris_zip
    assert files_under(downloads) == [downloads / "iris.zip"]


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (endless, "more than the file's"),
        (endless_chunks, "more than the file's"),
        (stall, "too slow: 0 bytes"),
        (stall_after_the_head, "too slow: 0 bytes"),
        (stall_in_the_middle, "too slow"),
        (drip, "too slow"),
        (drip_the_head, "(too slow|LineTooLong|BadStatusLine)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_answer_that_comes_to_no_end_is_given_up(
    answer, reason, iris_zip, surroundings, served, monkeypatch
):
    served.contents, served.answer = {"iris.zip": iris_zip}, answer
    monkeypatch.setattr(network, "LIMITS", network.Limits(seconds=2.0, pause=0.01))
    started = time.monotonic()
    with pytest.raises(InputError, match=f"failed: OSError: {served.url}iris.zip: {reason}"):
        load_dataset("iris")
    assert time.monotonic() - started < 60  # none ends by itself, but the limit is 2 seconds
    assert not files_under(surroundings)


@pytest.mark.usefixtures("online")
def test_a_host_that_answered_and_then_fails_is_given_up(surroundings, served):
    served.answer = always_500
    with pytest.raises(InputError, match="HTTP status 500"):
        load_dataset("iris")
    assert len(served.requests) == network.LIMITS.tries
    assert not files_under(surroundings)


def test_what_is_received_allows_more_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(network.time, "monotonic", lambda: now[0])
    clock = network._Clock(network.Limits(seconds=15, bytes_per_second=1000))
    clock.see(0, a_new_try=True)
    assert clock.left() == 15
    clock.see(20_000)
    now[0] += 30
    assert clock.left() == 5
    clock.see(20_000, a_new_try=True)  # goes on
    clock.see(5_000)  # or begins anew
    assert clock.received == 25_000 and clock.left() == 10
    now[0] += 10
    assert clock.left() <= 0


def test_a_download_is_known_by_its_content_whatever_it_is_called(iris_zip, downloads, asked):
    downloads.mkdir(parents=True)
    (downloads / "any-name").write_bytes(iris_zip)
    assert load_dataset("iris").source.startswith(f"downloaded to {downloads}")
    assert not asked


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("damage", [lambda content: b"cut", lambda content: content[:-1] + b"?"])
def test_a_damaged_download_is_made_anew(damage, iris_zip, downloads, asked, served):
    served.contents = {"iris.zip": iris_zip}
    load_dataset("iris")
    path = downloads / "iris.zip"
    path.write_bytes(damage(iris_zip))
    load_dataset("iris")
    assert len(asked) == 2
    assert path.read_bytes() == iris_zip and files_under(downloads) == [path]


def test_a_damaged_download_is_not_used_where_there_is_no_network(downloads, asked):
    downloads.mkdir(parents=True)
    (downloads / "iris.zip").write_bytes(b"not what the name says")
    assert load_dataset("iris").source.startswith("scikit-learn's bundled copy")
    assert asked == [IRIS.url]


@pytest.mark.usefixtures("online")
def test_what_cannot_be_overwritten_is_told(iris_zip, downloads, served):
    served.contents = {"iris.zip": iris_zip}
    (downloads / "iris.zip").mkdir(parents=True)
    with pytest.raises(InputError, match="downloading iris to .* failed: IsADirectoryError"):
        load_dataset("iris")


@pytest.mark.usefixtures("online")
def test_a_data_folder_that_cannot_be_made_is_told(tmp_path, monkeypatch, served):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(InputError, match="downloading iris to .* failed: NotADirectoryError"):
        load_dataset("iris")


@pytest.mark.parametrize(
    ("status", "failure"), [(200, ""), (404, "HTTP status 404"), (503, "HTTP status 503")]
)
def test_probe_judges_by_the_status(status, failure, served):
    served.answer = lambda handler, content, host: head(handler, status)
    assert Probe(f"{served.url}file", seconds=60).failure() == failure


@pytest.mark.usefixtures("served")
def test_probe_of_a_host_that_refuses():
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        port = unheard.getsockname()[1]
        said = Probe(f"http://127.0.0.1:{port}/", seconds=60).failure()
    assert said.startswith("NewConnectionError")


def test_probe_of_what_is_no_address():
    assert Probe("nothing", seconds=60).failure().startswith("MissingSchema: ")


@pytest.mark.parametrize("answer", [stall, drip_the_head])
def test_a_probe_without_an_answer_waits_no_longer_than_its_time(answer, served):
    served.answer = answer
    assert Probe(served.url, seconds=1.5).failure() == "no answer within 1.5 s"


def test_a_probe_that_hangs_in_name_resolution_is_ended(tmp_path, monkeypatch):
    hanging = "import socket, time\nsocket.getaddrinfo = lambda *a, **k: time.sleep(600)\n"
    (tmp_path / "sitecustomize.py").write_text(hanging)
    monkeypatch.syspath_prepend(tmp_path)  # which the process is handed
    monkeypatch.setenv("no_proxy", "*")
    probe = Probe("https://host.invalid/", seconds=2.0)
    assert probe.failure() == "no answer within 2.0 s"
    assert probe._process.returncode is not None


def test_no_thread_runs_beside_an_import(monkeypatch, served):
    """A thread in `getaddrinfo` reads the environment while scikit-learn's import writes it."""
    start = threading.Thread.start

    def only_the_hosts(thread):
        assert threading.current_thread() is not threading.main_thread()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", only_the_hosts)
    served.answer = stall
    assert Probe(f"{served.url}file", seconds=0.5).failure() == "no answer within 0.5 s"


def test_a_probe_is_ended_though_the_copy_cannot_be_read(monkeypatch, served):
    started = []

    class Kept(Probe):
        def __init__(self, url):
            super().__init__(f"{served.url}file", seconds=30)
            started.append(self._process)

    def fail(entry):
        raise InputError("no scikit-learn")

    monkeypatch.setattr(network, "Probe", Kept)
    monkeypatch.setattr(load.bundled, "read", fail)
    with pytest.raises(InputError, match="no scikit-learn"):
        load_dataset("iris")
    assert started[0].returncode is not None
