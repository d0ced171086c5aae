"""From architecture parameters to an architecture: mappings, relaxations, the supernet and the derivation.

Not here: images, runs and methods.
"""
