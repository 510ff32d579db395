"""What a row was measured under: memory, bandwidth, clocks, energy, other load, the machine."""
