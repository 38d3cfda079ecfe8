"""Programs of a model, run where they can do no harm: run.py asks for it, launcher.py is the process that shuts them in."""
