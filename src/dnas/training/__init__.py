"""One network over its images: batches, steps, the guard of what is finite, accuracy.

Not here: methods, supernets and studies.
"""
