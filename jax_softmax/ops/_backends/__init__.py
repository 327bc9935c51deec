"""How the few primitives that the formulas call are computed, and on which machine which way."""
