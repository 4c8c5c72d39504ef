"""The report: one HTML page about one run, its figures and its pictures."""
