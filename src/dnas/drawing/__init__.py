"""Drawings of an architecture, as SVG and as text for a terminal.

Not here: torch, runs and the pages about them.
"""
