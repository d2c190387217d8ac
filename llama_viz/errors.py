"""The errors of the package that are not plain ValueErrors."""


class CheckpointError(ValueError):
    """A file that should hold a model or a tokenizer cannot be loaded; names the file."""


class TraceError(ValueError):
    """A file that should hold a trace cannot be loaded; names the file."""


class MemoryLimitError(ValueError):
    """A recording would pass its memory limit; names the variables that cost most."""
