"""Writing a board's settings, units and boot options into a root file system, and undoing that."""
