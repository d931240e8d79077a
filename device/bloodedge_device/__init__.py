"""The board beside the microscope: frames to cells to classes, stored and reported."""
