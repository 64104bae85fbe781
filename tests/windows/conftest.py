"""Tests of the Windows code.  Those in ``wine/`` need Windows or Wine: ``run.py`` runs them there."""

import sys

collect_ignore = [] if sys.platform == "win32" else ["wine"]
