"""Training: batches, the guarded step and the loop, which searches also use; training of a network and its accuracy.

Not here: methods, supernets and studies.
"""
