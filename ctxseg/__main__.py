"""The command line: `ctxseg`, `python -m ctxseg` and `python main.py`."""


def main() -> None:
    """Does what `sys.argv` says, and ends the process."""
    from ctxseg import interrupts

    interrupts.install()  # before all that takes time

    from ctxseg import commands

    commands.run()


if __name__ == "__main__":
    main()
