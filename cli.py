"""Launcher for a checkout: `python cli.py lora ...`, `accelerate launch cli.py lora ...`."""

from tuner.commands import main
from tuner.launch import launch

if __name__ == "__main__":
    launch()
    main()
