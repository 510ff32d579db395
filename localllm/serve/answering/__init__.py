"""From what was asked to what is said, in no API's language."""
