"""An S3-compatible store on this machine, for the tests of the file store.

It is moto's server, which stands for S3: what it is asked comes over HTTP, by S3's protocol, with signatures
that it checks against its own users and their rights. It keeps everything in memory.
"""

import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import obstore
import pytest
from obstore.store import S3Store

from headrace.local.embedded_redis.ports import free_port

from .processes import running
from .waiting import wait_until

BUCKET = "files"
_CLIENTS = Path(__file__).parents[2] / ".clients"
_ALLOWED = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'


@dataclass(frozen=True)
class Bucket:
    """A bucket, and a user who may use it.

    Attributes:
        port: where the store listens.
        key_id: of the user's access key.
        secret: of the user's access key.
    """

    port: int
    key_id: str
    secret: str

    def environment(self, port: int | None = None) -> dict[str, str]:
        """The variables that lead to it, perhaps by another port."""
        return {
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT": f"http://127.0.0.1:{port or self.port}",
            "AWS_ALLOW_HTTP": "true",
        }

    def objects(self) -> dict[str, tuple[int, int]]:
        """What is in it by path: the size, and the number of parts it was uploaded in, as its ETag says."""
        store = S3Store(
            BUCKET,
            access_key_id=self.key_id,
            secret_access_key=self.secret,
            endpoint=f"http://127.0.0.1:{self.port}",
            client_options={"allow_http": True},
        )
        found = (each for page in obstore.list(store) for each in page)
        return {each["path"]: (each["size"], _parts(each["e_tag"] or "")) for each in found}


def _parts(e_tag: str) -> int:
    return int(e_tag.strip('"').partition("-")[2] or 1)


def _python_with_moto() -> str:
    if importlib.util.find_spec("moto") is not None:
        return sys.executable
    if not [*_CLIENTS.glob("lib/python*/site-packages/moto")]:
        pytest.skip("moto, which stands for S3, is not installed (make clients)")
    return str(_CLIENTS / "bin" / "python")


@contextmanager
def bucket(folder: Path) -> Iterator[Bucket]:
    """Serve a bucket while the context lasts; the test is skipped where moto isn't installed."""
    port, python = free_port(), _python_with_moto()
    url = f"http://127.0.0.1:{port}"

    def iam(action: str, **given: str) -> str:
        signed = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request, Signature=x"
        asked = {"Action": action, "UserName": "gateway", "Version": "2010-05-08", **given}
        return httpx.post(url, data=asked, headers={"authorization": signed}).raise_for_status().text

    def answers() -> bool:
        try:
            return httpx.put(f"{url}/{BUCKET}", timeout=60).is_success
        except httpx.TransportError:
            return False

    # Rights are checked after so many requests; below, after none.
    unchecked = {"INITIAL_NO_AUTH_ACTION_COUNT": "1000"}
    command = ("-m", "moto.server", "--host", "127.0.0.1", "--port", str(port))
    with running(*command, log=folder / "bucket.log", python=python, **unchecked) as server:
        wait_until(lambda: answers() or server.ended)
        assert not server.ended, server.said()
        iam("CreateUser")
        iam("PutUserPolicy", PolicyName="all", PolicyDocument=_ALLOWED)
        made = iam("CreateAccessKey")
        key_id, secret = (
            re.search(f"<{name}>(.*?)</{name}>", made)[1]  # type: ignore[index]
            for name in ("AccessKeyId", "SecretAccessKey")
        )
        httpx.post(f"{url}/moto-api/reset-auth", content="0").raise_for_status()
        yield Bucket(port, key_id, secret)
