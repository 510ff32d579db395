"""What every request passes through, whichever API it speaks."""
