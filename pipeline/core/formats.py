"""Formats of numbers for people: tokens, durations, bytes."""


def format_tokens(count: int) -> str:
    """A token count with three significant digits, as in `950`, `12.3k`, `1.25M` and `3B`."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size * 0.9995:
            return f"{count / size:.3g}{unit}"
    return str(count)


def format_duration(seconds: float) -> str:
    """Minutes and seconds, or hours before them, as in `2:42` and `1:02:42`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def format_bytes(count: float) -> str:
    """Bytes on a disk or a network with three significant digits and decimal units, as in `67.1 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def format_memory(count: float) -> str:
    """Bytes of memory with one decimal and binary units, as in `79.6 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
