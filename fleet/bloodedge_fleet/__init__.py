"""The server of a laboratory's boards: takes their reports, shows them, and rolls bundles out to them in stages."""
