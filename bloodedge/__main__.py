"""``python -m bloodedge``."""

from bloodedge.cli import main

if __name__ == "__main__":
    main()
