"""How hypothesis works here: a machine that is slow, or busy with other work, is no failure."""

from __future__ import annotations

try:
    from hypothesis import HealthCheck, settings
except ModuleNotFoundError:
    pass  # under Wine, whose tests need none
else:
    # Hangs are found by pytest's own time limit.
    settings.register_profile("winlayers", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("winlayers")
