"""`python -m tuner` is the same as `tuner`."""

from .commands import main

if __name__ == "__main__":
    main()
