"""How each platform computes the few primitives that the formulas call."""
