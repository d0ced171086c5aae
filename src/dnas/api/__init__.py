"""The Python functions: the commands with keyword arguments, their results, and a classifier for scikit-learn.

Not here: any implementation.
"""
