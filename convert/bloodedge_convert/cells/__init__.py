"""The cells that conversion needs, and what is measured of them."""
