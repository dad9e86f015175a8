"""The console script, and `python -m satbench`: an interrupt is one line even while the command line is imported."""

import sys


def main() -> None:
    """Run the command line; exit 130 on an interrupt that comes before its own handling of interrupts."""
    try:
        from satbench.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("satbench: interrupted; run the same command again to resume\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
