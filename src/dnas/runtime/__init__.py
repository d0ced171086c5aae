"""Execution of a loop: checkpoints, run folder, signals, ranks and processes.

Not here: networks, methods and images.
"""
