"""What a converted network is worth, and whether it may go into a bundle."""
