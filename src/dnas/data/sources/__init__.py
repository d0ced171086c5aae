"""One file a kind of data set: how it is told, and how it is read.

Not here: what becomes of its pictures.
"""
