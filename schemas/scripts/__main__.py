"""`python -m headrace.schemas.scripts NAME` prints a script as it is sent, for clients in other languages."""

import sys

from ..redis.call import script

sys.stdout.write(script(sys.argv[1]).source)
