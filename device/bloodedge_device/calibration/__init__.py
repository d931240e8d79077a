"""Calibration of a camera on its microscope: scale, focus, motion and light, saved as a camera profile."""
