"""``bloodedge device doctor``: whether this machine can run the daemon, and what to do where it cannot."""
