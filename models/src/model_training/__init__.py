"""Trains, judges and exports the deep MNIST network."""
