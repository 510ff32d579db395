"""From a question to the member that is to answer it, and the reasons."""
