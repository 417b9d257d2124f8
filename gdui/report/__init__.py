"""One HTML page by which a person can judge a labelling, correct it, and hand the corrections back."""

from gdui.report.write import report_labels, report_run

__all__ = ["report_labels", "report_run"]
