"""What keeps the daemon well and tells others how it is: the service manager, the clock, the heat, the log."""
