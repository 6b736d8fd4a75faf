// Holds the precompiled header of the programs that run ops.
