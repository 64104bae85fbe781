"""How hypothesis works here: a machine that is slow, or busy with other work, is no failure.

Where nothing may be missing (``WINLAYERS_REQUIRE=all``, as in CI) the examples are the same in every run: a
change is judged by what it does, not by luck.  Everywhere else they are new ones each time: the search.
"""

from __future__ import annotations

import os

try:
    from hypothesis import HealthCheck, settings
except ModuleNotFoundError:
    pass  # under Wine, whose tests need none
else:
    # Hangs are found by pytest's own time limit.
    settings.register_profile(
        "winlayers",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=os.environ.get("WINLAYERS_REQUIRE") == "all",
    )
    settings.load_profile("winlayers")
