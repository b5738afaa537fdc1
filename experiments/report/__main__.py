"""Show what a sweep or a run found, on one page."""

from experiments.cli import run_command
from experiments.report.command import main

if __name__ == "__main__":
    run_command(main)
