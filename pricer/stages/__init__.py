"""One thin script per stage: read paths and params, call the library, write outputs.

Like commands, stages come last: nothing of the library imports them, and none imports another.
"""
