"""Two runs against each other, and the gate that CI stands on."""
