"""The command line: `python main.py --help`."""

from ctxseg.__main__ import main

if __name__ == "__main__":
    main()
