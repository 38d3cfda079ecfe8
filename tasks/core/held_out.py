"""What the meta of a document may say about holding it out; sources write it, tokenize reads it.

GROUP: a string; documents of the same one are held out together. HELD_OUT: true or false, which settles it.
"""

GROUP, HELD_OUT = "held_out_group", "held_out"
