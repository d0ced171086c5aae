"""The loops that run a method over the training split.

Not here: test images, commands and pages.
"""
