"""What docs/webhooks.md shows for Node works as it stands, where there is Node."""

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from headrace.schemas.webhooks.signing import new_secret, sign

NODE = shutil.which("node")
PACKAGES = Path(os.environ.get("NODE_PATH") or "nowhere")
PAGE = (Path(__file__).parents[4] / "docs" / "webhooks.md").read_text()
BODY = '{"type":"job.succeeded","data":{"text":"Übung"}}'
BLOCKS = re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL)
DRIVER = """
import { verify } from "./verify.mjs";
import { readFileSync } from "node:fs";

const told = JSON.parse(readFileSync(0, "utf8")).map(({ secret, headers, body }) => {
  try {
    return verify(secret, headers, Buffer.from(body));
  } catch (error) {
    return String(error);
  }
});
console.log(JSON.stringify(told));
"""

pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not installed")


@pytest.mark.parametrize("code", BLOCKS, ids=["by hand", "package"])
def test_the_verifiers_tell_ours_from_others(code, tmp_path):
    if "standardwebhooks" in code:
        if not (PACKAGES / "standardwebhooks").is_dir():
            pytest.skip("NODE_PATH has no package standardwebhooks")
        (tmp_path / "node_modules").symlink_to(PACKAGES)  # imports do not look at NODE_PATH
    (tmp_path / "verify.mjs").write_text(code)
    (tmp_path / "driver.mjs").write_text(DRIVER)
    ours, forged = [], []
    for secret in (new_secret(), "sechzehn Zeichen für einen"):
        now_s = int(time.time())
        ours += [message(secret, [secret], now_s), message(secret, [new_secret(), secret], now_s)]
        forged += [
            message(secret, [secret], now_s) | {"body": BODY.replace("bung", "BUNG")},
            message(secret, [new_secret()], now_s),
            message(secret, [secret], now_s - 400),
            message(secret, [], now_s),
        ]
    ran = subprocess.run(
        [NODE, str(tmp_path / "driver.mjs")],
        input=json.dumps(ours + forged),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told[: len(ours)] == [json.loads(BODY)] * len(ours)
    assert all("Error" in str(refusal) for refusal in told[len(ours) :])


def message(secret: str, secrets: list[str], sent_at_s: int) -> dict[str, object]:
    return {
        "secret": secret,
        "body": BODY,
        "headers": {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(sent_at_s),
            "webhook-signature": sign("msg_1", sent_at_s, BODY.encode(), secrets),
        },
    }
