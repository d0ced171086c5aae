"""HTML about runs and studies.

Not here: commands.
"""
