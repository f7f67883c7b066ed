"""Where files of weights are looked for, and that they are fetched once and checked."""

import hashlib
import http.server
import threading

import pytest

from kdiff_jax.errors import CheckpointError, ConfigError
from kdiff_jax.features import WeightsFile, inception, weights_files

DATA = b"weights" * 1000


@pytest.fixture
def server():
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path == "/missing.pth":
                self.send_error(404)
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(DATA[:-1] if self.path == "/short.pth" else DATA)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()


def public(url):
    digest = hashlib.sha256(DATA).hexdigest()
    return WeightsFile("w.pth", "example.org", len(DATA), digest, url)


def test_missing_file_is_one_line_with_its_place(tmp_path, monkeypatch):
    monkeypatch.setenv("KDIFF_WEIGHTS", str(tmp_path / "here"))
    with pytest.raises(ConfigError) as caught:
        weights_files.find(inception.FILE, None, network="inception")
    assert str(caught.value) == (
        "weights=None: inception needs pt_inception-2015-12-05-6726825d.pth (95,628,359"
        " bytes, sha256 6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b"
        "2, github.com/mseitzer/pytorch-fid, release fid_weights, Apache-2.0); put it"
        f" at {tmp_path}/here/pt_inception-2015-12-05-6726825d.pth, give another path,"
        " or set fetch"
    )


def test_file_is_fetched_once_to_its_place(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KDIFF_WEIGHTS", str(tmp_path / "here"))
    url, asked = server
    file = public(f"{url}/w.pth")
    for _ in range(2):
        path = weights_files.find(file, None, fetch=True, network="net")
        assert path == tmp_path / "here/w.pth" and path.read_bytes() == DATA
    assert weights_files.find(file, None, network="net") == path
    assert asked == ["/w.pth"]
    # What the user names is never replaced by anything.
    given = tmp_path / "mine.pth"
    assert weights_files.find(file, given, fetch=True, network="net") == given
    assert asked == ["/w.pth"]


@pytest.mark.parametrize(
    ("name", "why"),
    [("short.pth", "6,999 bytes of sha256"), ("missing.pth", "Not Found")],
)
def test_nothing_is_kept_of_a_download_that_fails(
    name, why, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("KDIFF_WEIGHTS", str(tmp_path))
    with pytest.raises(CheckpointError, match=why) as caught:
        weights_files.find(
            public(f"{server[0]}/{name}"), None, fetch=True, network="net"
        )
    text = str(caught.value)
    assert "\n" not in text and f"at {tmp_path}/w.pth by hand" in text
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("KDIFF_WEIGHTS", str(tmp_path))
    file = public("http://127.0.0.1:9/w.pth")  # where nothing listens
    with pytest.raises(CheckpointError, match="refused; put w.pth") as caught:
        weights_files.find(file, None, fetch=True, network="net")
    assert "\n" not in str(caught.value)
