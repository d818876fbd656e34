"""SAM-Med3D in napari: click into a volume, get its 3D mask. Importing this imports no torch and no Qt."""
