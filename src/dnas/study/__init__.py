"""Many runs, and what their numbers say.

Not here: options and pages.
"""
