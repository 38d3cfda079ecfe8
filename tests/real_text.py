"""Real text beside the checkout, for the tests that look at some; they are skipped where it is not."""

import pytest

from tests.imports import ROOT

REAL_TEXT = ROOT.parent / "shared" / "data"
on_real_text = pytest.mark.skipif(not REAL_TEXT.is_dir(), reason=f"{REAL_TEXT} holds the real text, and is not there")
