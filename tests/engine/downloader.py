"""Downloads a model by its Hub name: a line of JSON for each report, and one for the end."""

import json
import os
import sys
from dataclasses import asdict

from headrace.engine.download import DownloadProgress, download
from headrace.engine.errors import ModelError


def _say(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def _report(progress: DownloadProgress) -> None:
    _say(**asdict(progress), words=str(progress))


if __name__ == "__main__":
    try:
        _say(folder=str(download(sys.argv[1], _report, every_s=float(os.environ.get("EVERY_S", "0.02")))))
    except ModelError as error:
        _say(error=str(error))
