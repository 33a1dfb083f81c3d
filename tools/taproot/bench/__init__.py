"""`taproot bench`: figures with goals, and the faults a client must survive.

runner.py holds rows, goals and comparison; each kind of bench is a module of its own.
"""
