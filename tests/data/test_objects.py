"""Objects of gs:// and s3://, of a store that this machine pretends to be."""

import http.server
import io
import json
import re
import tarfile
import threading
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from kdiff_jax.data import captions, objects
from kdiff_jax.errors import DataError

OBJECTS = {}  # "bucket/key" -> content
ASKED = []  # (key, range)


class Store(http.server.BaseHTTPRequestHandler):
    """Lists and reads, as S3 and Google's store do."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        google = re.match(r"/storage/v1/b/([^/]+)/o(/(.*))?", url.path)
        if google:
            bucket, key = google[1], urllib.parse.unquote(google[3] or "")
        else:
            bucket, _, key = urllib.parse.unquote(url.path[1:]).partition("/")
        if bucket == "closed":
            return self.say(403, b"who are you")
        if key:
            return self.give(f"{bucket}/{key}")
        keys = [k[len(bucket) + 1 :] for k in sorted(OBJECTS)]
        keys = [k for k in keys if k.startswith(query.get("prefix", ""))]
        keys = [k for k in keys if k >= query.get("startOffset", "")]
        keys = [k for k in keys if k < query.get("endOffset", "~")]
        if google:
            items = [{"name": k} for k in keys]
            return self.say(200, json.dumps({"items": items}).encode())
        listed = "".join(f"<Contents><Key>{k}</Key></Contents>" for k in keys)
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{listed}"
        self.say(200, f"{text}</ListBucketResult>".encode())

    def do_HEAD(self):
        self.say(200, b"")

    def give(self, name):
        if name not in OBJECTS:
            return self.say(404, b"")
        content, asked = OBJECTS[name], self.headers.get("Range")
        ASKED.append((name, asked))
        if not asked:
            return self.say(200, content)
        first, last = map(int, re.match(r"bytes=(\d+)-(\d+)", asked).groups())
        part = content[first : last + 1]
        where = f"bytes {first}-{first + len(part) - 1}/{len(content)}"
        self.say(206, part, **{"Content-Range": where})

    def say(self, code, body, **headers):
        self.send_response(code)
        kind = "application/xml" if body.startswith(b"<") else "application/json"
        about = {"Content-Length": str(len(body)), "Content-Type": kind}
        about |= {"x-goog-generation": "1", "ETag": '"1"'} | headers
        for name, value in about.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def tar(first, last):
    """A .tar of images and captions, as webdataset has it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as content:
        for i in range(first, last):
            pixels = np.full((4, 4, 3), 20 * i, np.uint8)
            picture = io.BytesIO()
            Image.fromarray(pixels).save(picture, "png")
            for kind, data in ("png", picture.getvalue()), ("txt", b"photo %d" % i):
                info = tarfile.TarInfo(f"{i:05d}.{kind}")
                info.size = len(data)
                content.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture(scope="module")
def store():
    OBJECTS["photos/a/0.tar"], OBJECTS["photos/a/1.tar"] = tar(0, 2), tar(2, 5)
    OBJECTS["photos/a/readme.md"] = b"x"
    OBJECTS["photos/b/cut.tar"] = OBJECTS["photos/a/0.tar"][:700]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Store)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    patch = pytest.MonkeyPatch()
    place = f"http://127.0.0.1:{server.server_port}"
    patch.setenv("AWS_ENDPOINT_URL", place)
    patch.setenv("TENSORSTORE_GCS_HTTP_URL", place)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.setenv(name, "x")
    patch.setattr(objects, "RETRIES", {"max_retries": 1})
    yield
    patch.undo()
    server.shutdown()


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_tars_of_a_store_are_those_of_a_folder(store, scheme, tmp_path):
    for name in ("0.tar", "1.tar"):
        (tmp_path / name).write_bytes(OBJECTS[f"photos/a/{name}"])
    here, there = captions.read(str(tmp_path)), captions.read(f"{scheme}://photos/a")
    assert (there.names, there.sha256) == (here.names, here.sha256)
    assert there.captions[4] == ("photo 4",) and there.names[4] == "1.tar/00004.png"
    ASKED.clear()
    images = there.images(4, 3, at_once=False)
    np.testing.assert_array_equal(
        images.read([4, 1])[:, 0, 0, 0], [80, 20], err_msg=str(ASKED)
    )
    assert [(name, bool(part)) for name, part in ASKED] == [
        ("photos/a/1.tar", True),
        ("photos/a/0.tar", True),
    ]
    one = captions.read(f"{scheme}://photos/a/1.tar")
    assert one.names == ("00002.png", "00003.png", "00004.png")


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("photos/c", r"photos/c/: no .tar in it; give the folder"),
        ("photos/c.tar", r"photos/c.tar: is not there; mend the name"),
        ("photos/b", r"photos/b/cut.tar: is no whole .tar"),
        ("closed/a", r"closed/a/: cannot be read \(.*\); .* or copy the files here"),
    ],
)
def test_what_is_not_there_ends_in_a_line(store, path, match):
    with pytest.raises(DataError, match=match):
        captions.read(f"s3://{path}")
