"""A linear layer under a loss: its products, its blocks of rows, its sweeps and its rules."""
