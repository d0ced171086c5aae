"""The Python functions: the commands by keyword, their results, and a classifier as scikit-learn has them.

Not here: how anything is done.
"""
