"""How hypothesis works here: a machine that is slow, or busy with other work, is no failure.

Where nothing may be missing (``WINLAYERS_REQUIRE=all``, as in CI) the examples are the same in every run: a
change is judged by what it does, not by luck.  Everywhere else they are new ones each time: the search.
"""

from __future__ import annotations

import importlib
import os

try:
    from hypothesis import HealthCheck, settings
except ModuleNotFoundError:
    pass  # under Wine, whose tests need none
else:
    always_the_same = os.environ.get("WINLAYERS_REQUIRE") == "all"
    # Hangs are found by pytest's own time limit.
    settings.register_profile(
        "winlayers",
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
        derandomize=always_the_same,
    )
    settings.load_profile("winlayers")
    if always_the_same:
        # Hypothesis also draws from the constants of all modules of ours that happen to be imported: without
        # this, any change of any of them, and the order of tests, would mean other examples for all tests.
        # There is no setting for it; where the function is called otherwise, this does nothing.
        providers = importlib.import_module("hypothesis.internal.conjecture.providers")
        if hasattr(providers, "_local_constants"):
            setattr(providers, "_get_local_constants", lambda: providers._local_constants)  # noqa: B010
