"""Data for training and evaluation: preparation, index, datasets, synthetic volumes."""
