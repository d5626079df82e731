"""An injected clock: a Python process with this folder on its path has a wall clock that is off by SHIFT_S.

The monotonic clock is left alone, as on a machine whose clock is set wrong.
"""

import datetime
import os
import time

_SHIFT_S = float(os.environ["SHIFT_S"])
_true_time, _true_time_ns = time.time, time.time_ns


class _Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(seconds=_SHIFT_S)


time.time = lambda: _true_time() + _SHIFT_S
time.time_ns = lambda: _true_time_ns() + int(_SHIFT_S * 1e9)
datetime.datetime = _Shifted
