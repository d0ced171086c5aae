"""The resolved settings, and a run from images to a tested network.

Not here: options, studies and pages.
"""
