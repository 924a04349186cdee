"""The command line's door: `python main.py --help`."""

if __name__ == "__main__":
    from ctxseg import interrupts

    interrupts.install()  # before all that takes time

    from ctxseg import commands

    commands.run()
