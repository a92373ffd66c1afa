"""`python -m tuner` is the same as `tuner`."""

from .commands import main
from .launch import launch

if __name__ == "__main__":
    launch()
    main()
