"""The file that a model is: its metadata, checkpoints of a run, and a bundle to hand on."""
