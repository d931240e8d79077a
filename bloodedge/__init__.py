"""What the GPU host, the converter and the board beside the microscope must agree on."""

__version__ = "0.1.0"

RESEARCH_USE = "For Research Use Only. Not for use in diagnostic procedures."
