"""What the documents of several stages share."""
