"""Kinds of data sets, one per file: how to recognize and read them.

Not here: the conversion of their images.
"""
