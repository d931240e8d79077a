"""What a network looks at, and what else would do."""
