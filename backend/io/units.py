"""Units of length by the names that files give them."""

MM_PER_UNIT = {
    **{"nm": 1e-6, "mm": 1.0, "cm": 10.0, "m": 1e3, "in": 25.4, "inch": 25.4},
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer"), 1e-3),
}
