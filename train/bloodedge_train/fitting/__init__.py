"""Fitting one network: batches, steps, epochs, checkpoints, temperature."""
