"""Plans as torch modules, and reference networks.

Not here: images, runs and supernets.
"""
