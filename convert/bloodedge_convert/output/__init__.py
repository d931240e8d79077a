"""What conversion writes: the bundle, its model card and the conversion report."""
