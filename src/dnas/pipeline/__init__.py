"""The settings in force, and a run from images to a tested network.

Not here: options, studies and pages.
"""
