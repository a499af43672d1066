"""What ``demo`` and the single commands share: one step of the work in a run, its job, its files and its figures.

Imported by a command only when it runs; everything here may load torch.
"""
