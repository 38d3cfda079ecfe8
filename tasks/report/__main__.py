"""`python -m tasks.report`: print the table, write the page, say where it is."""

from pathlib import Path

from tasks.report.render import render
from tasks.report.terminal import table

if __name__ == "__main__":
    print(table(Path()))
    print(f"\nreport: {render(Path())}")
