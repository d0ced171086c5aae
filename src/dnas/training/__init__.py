"""What searches and trainings share: batches, the guarded step, the loop; the training of a network, its accuracy.

Not here: methods, supernets and studies.
"""
