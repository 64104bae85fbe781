"""Reports to look at: one self-contained HTML page, of an image or of what differs between two."""

from __future__ import annotations

from winlayers.inspection.report.difference import diff_report
from winlayers.inspection.report.image import image_report

__all__ = ["diff_report", "image_report"]
