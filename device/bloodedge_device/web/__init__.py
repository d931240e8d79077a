"""The page and the interface for programs, served by the daemon to browsers, programs and the command line."""
