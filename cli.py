"""Launcher for a checkout: `python cli.py lora ...`, `accelerate launch cli.py lora ...`."""

from tuner.commands import main

if __name__ == "__main__":
    main()
