"""What the GPU host, the converter and the board beside the microscope must agree on."""

import os

# OpenCV reads it as it is loaded: it decodes no larger picture, in formats whose size bloodedge does not read either.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**25))

__version__ = "0.1.0"

RESEARCH_USE = "For Research Use Only. Not for use in diagnostic procedures."
