"""From architecture parameters to an architecture: mapping, relaxation, supernet, derive.

Not here: pictures, runs and methods.
"""
