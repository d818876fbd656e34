"""Interactive 3D segmentation with SAM-Med3D: volumes, networks and sessions.

Nothing in this package imports napari or Qt; importing `backend` itself imports no torch.
"""
