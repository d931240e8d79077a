"""What boards say, from the broker into the database, and what it comes to."""
