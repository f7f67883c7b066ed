"""Where files of weights are looked for, and that they are fetched once and checked."""

import hashlib
import http.server
import threading

import pytest

from kdiff_jax import features, metrics
from kdiff_jax.errors import CheckpointError
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
            if self.path == "/ends_early.pth":
                self.send_header("Content-Length", str(len(DATA) + 1))
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
    with pytest.raises(CheckpointError) as caught:
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
    ("name", "why", "knows_digest"),
    [
        ("short.pth", "6,999 bytes of sha256", True),
        ("missing.pth", "Not Found", True),
        ("ends_early.pth", "7,000 bytes came of 7,001", False),
    ],
)
def test_nothing_is_kept_of_a_download_that_fails(
    name, why, knows_digest, server, tmp_path, monkeypatch
):
    monkeypatch.setenv("KDIFF_WEIGHTS", str(tmp_path))
    with pytest.raises(CheckpointError, match=why) as caught:
        file = public(f"{server[0]}/{name}")
        file = file._replace(sha256=file.sha256 if knows_digest else None)
        weights_files.find(file, None, fetch=True, network="net")
    text = str(caught.value)
    assert "\n" not in text and f"at {tmp_path}/w.pth by hand" in text
    assert list(tmp_path.iterdir()) == []


def test_no_network_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("KDIFF_WEIGHTS", str(tmp_path))
    file = public("http://127.0.0.1:9/w.pth")  # where nothing listens
    with pytest.raises(CheckpointError, match="refused; put w.pth") as caught:
        weights_files.find(file, None, fetch=True, network="net")
    assert "\n" not in str(caught.value)


KNOWN = {  # bytes and the start of the sha256 of each network's public file
    "inception": "95,628,359 bytes, sha256 6726825d0af5f729",
    "dinov2": "1,217,586,395 bytes, sha256 d5383ea8f4877b24",
    "dinov2_base": "346,378,731 bytes, sha256 0b8b82f85de91b42",
    "clip": "932,768,134 bytes, sha256 b8cca3fd41ae0c99",
    "clip_g": "MIT, sha256 not known: rows state that of the file that is read)",
    "resnet56": "BSD-2-Clause, sha256 not known: rows state that of the file that",
}


def test_every_feature_network_but_pixels_has_a_public_file():
    public = {n for n in features.names() if features.network(n).FILE is not None}
    assert public == {n for n in features.names() if n.split("_")[0] != "pixels"}
    assert public >= KNOWN.keys()


@pytest.mark.parametrize("name", KNOWN)
def test_any_network_s_missing_file_is_named_and_fetched(
    name, server, tmp_path, monkeypatch
):
    """Nobody gave it, and it is not in the folder of weights."""
    monkeypatch.setenv("KDIFF_WEIGHTS", str(tmp_path / "here"))
    module = features.network(name)
    file, at = module.FILE, weights_files.place(module.FILE)
    with pytest.raises(CheckpointError) as caught:
        metrics.make(name)
    text = str(caught.value)
    assert text.startswith(f"weights=None: {name} needs {file.name} (")
    assert KNOWN[name] in text and file.source in text and file.terms in text
    assert text.endswith(f"; put it at {at}, give another path, or set fetch")
    assert file.url.startswith("https://") and file.url.endswith(f"/{file.name}")

    url, asked = server
    digest = file.sha256 and hashlib.sha256(DATA).hexdigest()
    here = file._replace(url=f"{url}/{file.name}", size=None, sha256=digest)
    monkeypatch.setattr(module, "FILE", here)
    monkeypatch.setattr(module, "load", lambda path: {"read": path.read_bytes()})
    for fetch in (True, False):  # the second time it lies there
        found = metrics.make(name, fetch=fetch)
        assert found.params == {"read": DATA}
        assert found.sha256 == hashlib.sha256(DATA).hexdigest()
    assert asked == [f"/{file.name}"] and at.read_bytes() == DATA


def test_without_a_url_there_is_nothing_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("KDIFF_WEIGHTS", str(tmp_path))
    file = WeightsFile("w.npz")
    with pytest.raises(CheckpointError) as caught:
        weights_files.find(file, None, fetch=True, network="net")
    text = str(caught.value)
    assert text.endswith(f"; put it at {tmp_path}/w.npz, or give another path")
    (tmp_path / "w.npz").touch()
    assert weights_files.find(file, None, network="net") == tmp_path / "w.npz"


def test_which_files_are_said_to_be_none_of_the_public_ones(tmp_path, caplog):
    found = hashlib.sha256(DATA).hexdigest()
    path = tmp_path / "theirs.pt"
    path.write_bytes(DATA)
    other = public("")._replace(sha256="0" * 64)
    also = other._replace(also=(found,))
    unknown = other._replace(sha256=None)
    for file in (public(""), also, unknown):
        assert weights_files.digest(path, file) == found
    assert not caplog.messages
    assert weights_files.digest(path, other) == found
    (line,) = caplog.messages
    assert line.startswith(f"weights={path}: none of the public files that are known")
    path = path.rename(tmp_path / other.name)
    with pytest.raises(CheckpointError, match="it is damaged: give w.pth"):
        weights_files.digest(path, other)


def test_nvidia_s_and_clean_fid_s_file_is_a_public_one():
    (digest,) = inception.FILE.also
    assert len(digest) == 64 and digest.startswith("f58cb9b6ec323ed6")
