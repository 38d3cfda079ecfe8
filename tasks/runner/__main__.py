"""`python -m tasks.runner STAGE [ITEM]`: the command of every stage in dvc.yaml; the stage itself is tasks/<STAGE>/stage.py."""

import sys

from tasks.runner.stage import main, stage_called

if __name__ == "__main__":
    main(*stage_called(sys.argv[1:]))
