"""The formulas, with their derivations. No platform has a name here."""
