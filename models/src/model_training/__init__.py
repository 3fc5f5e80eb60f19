"""Training, evaluation and export of the deep MNIST network."""
