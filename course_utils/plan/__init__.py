"""What a run holds, sends and takes, on paper: counted before it runs, for any model and machine."""
