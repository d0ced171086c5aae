"""What surrounds a loop: checkpoints, the run folder, signals, ranks and processes.

Not here: networks, methods and pictures.
"""
