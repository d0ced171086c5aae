"""Networks that run without dnas: one file per format of `dnas export`, tests of the exported files, and predictions.

Not here: reading images for a test (`pipeline/evaluation`), and pages.
"""
