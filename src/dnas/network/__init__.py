"""A plan as torch modules, and networks that people designed.

Not here: pictures, runs and supernets.
"""
