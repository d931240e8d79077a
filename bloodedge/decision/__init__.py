"""The verdict on a cell or a slide, from the network's probabilities and how often it errs."""
