"""Several quantizations of one model, measured and compared: `quantize --ladder`."""
