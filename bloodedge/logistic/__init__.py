"""Penalised logistic regression of a cell's class on a network's features, as training and fine-tuning both fit it."""
