"""Kinds and classes of the cells in any pictures: cut out on black, crops, fields, stacks and videos."""
