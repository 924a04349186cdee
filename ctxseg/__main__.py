"""The command line: `ctxseg`, `python -m ctxseg` and `python main.py`."""


def main() -> None:
    """Runs the command line `sys.argv` and ends the process."""
    from ctxseg import cpu, interrupts

    interrupts.install()  # before the slow imports
    cpu.keep_freed_memory()

    from ctxseg import commands

    commands.run()


if __name__ == "__main__":
    main()
