"""Networks that run without us: one file a format of `dnas export`, what is measured of its file, and predictions.

Not here: how images are read for a test (`pipeline/evaluation`), and pages.
"""
