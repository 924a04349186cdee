"""The config that every other one begins with: all fields, with their defaults.

A field of a module is a field of its class (`ctxseg/models/`); the others are declared in `ctxseg/settings/declared.py`. `docs/fields.md`
lists all of them, and `--mode=show` those that a config reads. A config file changes some; the command line, any.
"""

from ctxseg.settings.collect import get_config

__all__ = ["get_config"]
