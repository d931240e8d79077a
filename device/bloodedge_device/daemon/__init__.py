"""The daemon: the loop over frames and the services beside it."""
