"""Training in torch. Importing the package imports nothing heavy; `prepare_torch` comes first."""
