"""The default config, which all others start from: every field with its default.

The fields of modules are the fields of their classes (`ctxseg/models/`); the others are declared in `ctxseg/settings/declared.py`.
`docs/fields.md` lists all of them, `--mode=show` those that a config uses. A config file changes some; the command line can change any.
"""

from ctxseg.settings.collect import get_config

__all__ = ["get_config"]
