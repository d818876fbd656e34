"""The SAM-Med3D network, its weights and where they come from; importing this package imports no torch."""
