"""Calibration of a camera on its microscope: scale, focus, motion and light, kept as a camera profile."""
