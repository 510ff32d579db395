"""Running the tests: in a child process, row by row, and what is measured beside rows."""
