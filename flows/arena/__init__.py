"""`tokenmill study`: methods raced against a tuned baseline on this machine and this corpus. study.py has what is asked,
race.py how it is run, statistics/ what may be concluded."""
