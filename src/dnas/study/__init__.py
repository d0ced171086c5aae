"""Studies and rankings: many runs, and the statistics of their results.

Not here: options and pages.
"""
