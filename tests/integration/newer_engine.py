"""An engine process of a version to come, that understands jobs of schema version 2."""

import sys
from functools import partial

from headrace.schemas.job import SCHEMA_VERSION
from headrace.workers.engine_process import link
from headrace.workers.engine_process.main import main

if __name__ == "__main__":
    link.ClaimRequest = partial(link.ClaimRequest, max_v=SCHEMA_VERSION + 1)
    sys.exit(main(int(sys.argv[1])))
