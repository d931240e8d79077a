"""What may be said of one cell or one slide, given the network's probabilities and how often it errs."""
