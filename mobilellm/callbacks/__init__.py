"""Lightning callbacks that decide when something is done, and do none of it themselves."""
