"""What every contender's process runs, in the Python of the contender's own environment.

    python -P main.py NAME SPEC

NAME.py lies beside this file. It has PACKAGES, whose versions are told; QUANTIZATIONS, if it has any of the
weights; and `load(**spec)`, which returns a callable that runs requests (prompt ids, output tokens) all at
once and returns the token count of each. SPEC is a JSON file. One JSON line is written to standard output
when the model is loaded, and one for each line of requests read from standard input, until that ends.

Standard library only; -P keeps this folder off the path, where vllm.py would hide the real vllm.
"""

import importlib.metadata
import importlib.util
import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    name, spec = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print belongs into the log

    def reply(**facts: object) -> None:
        print(json.dumps(facts), file=replies, flush=True)

    if spec["device"] == "cpu":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: spec["threads"]])
    source = importlib.util.spec_from_file_location(f"peer_{name}", Path(__file__).parent / f"{name}.py")
    peer = importlib.util.module_from_spec(source)
    source.loader.exec_module(peer)
    if quantization := spec.pop("quantization"):
        if quantization not in getattr(peer, "QUANTIZATIONS", ()):
            sys.exit(f"{quantization} is not measured with it")
        spec["quantization"] = quantization
    run = peer.load(**spec)
    reply(versions={package: version(package) for package in peer.PACKAGES})
    for line in sys.stdin:
        requests = json.loads(line)
        started = time.perf_counter()
        tokens = run(requests)
        reply(seconds=time.perf_counter() - started, tokens=tokens)


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "from its sources"


if __name__ == "__main__":
    main()
