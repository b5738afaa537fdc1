"""`python -m experiments.report`."""

from experiments.cli import run_command
from experiments.report.command import main

run_command(main)
