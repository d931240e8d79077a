"""What one specimen shows, and how far it is to be believed: intervals, cells seen twice, reviews, drift."""
