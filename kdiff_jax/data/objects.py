"""Files that are read in parts: local ones, and objects of gs:// and s3://.

Objects are read by tensorstore, which comes with Orbax. It takes the credentials of the
machine: Google's default ones, and the variables, profiles and roles of AWS;
AWS_ENDPOINT_URL names a store that speaks as S3 does.
"""

import io
import os
import pathlib
import urllib.parse
from typing import Any, NamedTuple, Protocol, runtime_checkable

from kdiff_jax.errors import DataError

SCHEMES = ("gs://", "s3://")
# By default it tries for a quarter of an hour.
RETRIES = {"max_retries": 5, "initial_delay": "500ms", "max_delay": "8s"}
WAY_OUT = {
    "gs": "run `gcloud auth application-default login`",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
}


@runtime_checkable
class File(Protocol):
    """A file, whose str() is its place."""

    def headers(self) -> io.BufferedIOBase:
        """A stream that can be sought in, to read the headers of an archive."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from a place on; fewer at its end.

        Raises:
            DataError: If they cannot be read.
        """
        ...


class Local(NamedTuple):
    """A file of this machine."""

    path: pathlib.Path

    def headers(self) -> io.BufferedIOBase:
        """See `File`."""
        return open(self.path, "rb")

    def read(self, offset: int, size: int) -> bytes:
        """See `File`."""
        try:
            with open(self.path, "rb") as file:
                return os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise DataError(
                f"{self.path}: cannot be read ({error.strerror})"
            ) from error

    def __str__(self) -> str:
        return str(self.path)


class Object(NamedTuple):
    """An object of a store.

    Attributes:
        store: The `tensorstore.KvStore` of a folder.
        url: The folder.
        name: Name in it; "" if that is the object itself.
    """

    store: Any
    url: str
    name: str

    def read(self, offset: int, size: int) -> bytes:
        """See `File`; the place must lie in the object."""
        where = slice(offset, offset + size)
        return _said(self, lambda: self.store.read(self.name, byte_range=where))

    def headers(self) -> io.BufferedIOBase:
        """See `File`; in memory, for headers one by one would be calls as many."""
        return io.BytesIO(_said(self, lambda: self.store.read(self.name)))

    def __str__(self) -> str:
        return self.url + self.name


def is_remote(path: str) -> bool:
    """Whether a path names an object, or a folder of them."""
    return path.startswith(SCHEMES)


def find(url: str, suffix: str) -> dict[str, Object]:
    """The objects of a suffix by name: one by its own URL, or all of a folder.

    Args:
        url: gs://BUCKET/PATH or s3://BUCKET/PATH.
        suffix: End of their names.

    Raises:
        DataError: If there are none, or they cannot be listed.
    """
    if url.lower().endswith(suffix):
        return {"": Object(_open(url), url, "")}
    url = url.rstrip("/") + "/"
    store = _open(url)
    keys = _wait(url, lambda: store.list())
    names = sorted(key.decode() for key in keys)
    if found := [name for name in names if name.lower().endswith(suffix)]:
        return {name: Object(store, url, name) for name in found}
    raise DataError(f"{url}: no {suffix} in it; give the folder, or one of its files")


def _open(url: str) -> Any:
    import tensorstore  # half a second

    parts = urllib.parse.urlsplit(url)
    spec: Any = url
    if parts.scheme == "s3" and (endpoint := os.environ.get("AWS_ENDPOINT_URL")):
        region = os.environ.get("AWS_REGION", "us-east-1")
        spec = dict(driver="s3", bucket=parts.netloc, path=parts.path.lstrip("/"))
        spec |= dict(endpoint=endpoint, aws_region=region)
    retries = {"gcs_request_retries": RETRIES, "s3_request_retries": RETRIES}
    context = tensorstore.Context(retries)
    return _wait(url, lambda: tensorstore.KvStore.open(spec, context=context))


def _said(where: Object, act: Any) -> bytes:
    found = _wait(str(where), act)
    if found.state != "value":
        raise DataError(f"{where}: is not there; mend the name")
    return found.value


def _wait(url: str, act: Any) -> Any:
    try:
        return act().result()
    except Exception as error:  # of any kind, with what the store said in its text
        why = " ".join(str(error).split())[:200]
        login = WAY_OUT[url.partition(":")[0]]
        raise DataError(
            f"{url}: cannot be read ({why}); {login} if the store asks who you are, or"
            " copy the files here"
        ) from error
